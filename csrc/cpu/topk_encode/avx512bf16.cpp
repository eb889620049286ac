// The kernels that need AVX512-BF16 beside the rest of AVX-512.
#include "cpu/topk_encode/bf16.h"
#include "cpu/topk_encode/few.h"
#include "cpu/topk_encode/scan.h"
#include "cpu/topk_encode/screen.h"

namespace revelio {
namespace REVELIO_ISA {

ScreenCounts topk_screen_bf16(const TopkEncode &p) {
    return screen<Bf16>(p, nullptr);
}

void topk_encode_bf16(const TopkEncode &p) {
    scan<Bf16>(p);
}

ScreenCounts topk_few_bf16(const TopkEncode &p) {
    return few<Bf16, Bf16Dots>(p, topk_encode_bf16);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

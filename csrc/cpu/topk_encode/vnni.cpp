// The kernels that need AVX512-VNNI beside the rest of AVX-512.
#include "cpu/topk_encode/int8.h"
#include "cpu/topk_encode/screen.h"

namespace revelio {
namespace REVELIO_ISA {

ScreenCounts topk_screen_int8(const TopkEncode &p, Screener next) {
    return screen<Int8>(p, next);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

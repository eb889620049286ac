// The kernels that need AVX512-VNNI beside the rest of AVX-512.
#include "cpu/topk_int8.h"
#include "cpu/topk_screen.h"

namespace revelio {
namespace REVELIO_ISA {

ScreenCounts topk_screen_int8(const TopkEncode &p) {
    return screen<Int8>(p);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

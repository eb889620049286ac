// The kernels that need AVX512-BF16 beside the rest of AVX-512.
#include "cpu/topk_bf16.h"
#include "cpu/topk_few.h"
#include "cpu/topk_scan.h"
#include "cpu/topk_screen.h"

namespace revelio {
namespace REVELIO_ISA {
namespace {

struct Bf16Dots : Float32Dots {
    typedef uint16_t Channel;
    typedef __m512bh Group;
    struct Pair {
        __m512 low, high;
    };
    static constexpr int CHANNELS = 32;
    static constexpr float TILE_STEP = 2.02f, DOT_STEP = 2.02f, NORM = 1.006f;

    static double value(Channel x) {
        const uint32_t bits = static_cast<uint32_t>(x) << 16;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    static Pair load(const float *w) { return {_mm512_loadu_ps(w), _mm512_loadu_ps(w + 16)}; }
    static Group narrow(const Pair &w) { return _mm512_cvtne2ps_pbh(w.high, w.low); }
    static Vector add(Vector sum, const Channel *x, Group w) {
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_load_si512(x), w);
    }
    static Vector add_squares(Vector sum, const Pair &w) { return sum + w.low * w.low + w.high * w.high; }
};

}  // namespace

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

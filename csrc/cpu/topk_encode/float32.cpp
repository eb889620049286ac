// topk_encode: the k best float32 scores of each row; "bf16" without bfloat16 instructions is float32 on rounded
// inputs.
#include "cpu/topk_encode/few.h"
#include "cpu/topk_encode/scan.h"

namespace revelio {
namespace REVELIO_ISA {
namespace {

struct Float32 {
    typedef float Step;
    typedef Vector Sum;
    static constexpr int64_t TILES_PER_BLOCK = 4;  // rows of x that stay in L2 while a group of panels streams by
    static int64_t steps(int64_t d) { return d; }
    static const float *line(const float *row, int64_t, float *) { return row; }
    static Sum start(int32_t) { return Sum{}; }
    static Sum add(Sum sum, float x, Vector w) { return sum + x * w; }
};

struct RoundedFloat32 : Float32 {
    static const float *line(const float *row, int64_t d, float *out) {
        for (int64_t i = 0; i < d; ++i) {
            uint32_t bits;
            memcpy(&bits, row + i, 4);
            const uint32_t rounded = bits + 0x7FFF + ((bits >> 16) & 1);
            bits = (row[i] == row[i] ? rounded : bits | 0x400000) & 0xFFFF0000u;
            memcpy(out + i, &bits, 4);
        }
        return out;
    }
};

}  // namespace

void topk_encode(const TopkEncode &p) {
    if (p.bf16)
        scan<RoundedFloat32>(p);
    else
        scan<Float32>(p);
}

ScreenCounts topk_few(const TopkEncode &p) {
    if (p.bf16) return few<RoundedFloat32, RoundedFloat32Dots>(p, topk_encode);
    return few<Float32, Float32Dots>(p, topk_encode);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

// sparse_decode and sparse_residual: one thread per row; a tile of the output stays in registers while the decoder rows
// pass by, each fetched some rows ahead.
#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace revelio {
namespace REVELIO_ISA {

// Vectors of a tile: most of the registers, and a divisor of the usual widths (20 x 16 = 320).
constexpr int64_t TILE = LANES == 16 ? 20 : 10;
constexpr int64_t ROWS_AHEAD = 32;

// out[0 .. COUNT * LANES) = sum over s of values[s] W[latents[s] * d + ...], in the order of s
template <int64_t COUNT>
static inline void sum_tile(float *out, const float *values, const int64_t *latents, int64_t k, int64_t known,
                            const float *W, int64_t d) {
    Vector sum[COUNT] = {};
    for (int64_t s = 0; s < k; ++s) {
        const float *row = W + latents[s] * d;
        const float *ahead = W + latents[s + ROWS_AHEAD < known ? s + ROWS_AHEAD : s] * d;
#pragma GCC unroll 20
        for (int64_t c = 0; c < COUNT; ++c) {
            if (c * LANES % 16 == 0) prefetch_for_later(ahead + c * LANES);
            sum[c] += values[s] * load(row + c * LANES);
        }
    }
    memcpy(out, sum, sizeof sum);
}

void sparse_decode(const SparseDecode &p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t b = 0; b < p.B; ++b) {
        float *out = p.out + b * p.d;
        const float *values = p.values + b * p.k;
        const int64_t *latents = p.indices + b * p.k;
        const int64_t known = (p.B - b) * p.k;  // latents of the rows after this one follow its own
        int64_t i = 0;
        for (; i + TILE * LANES <= p.d; i += TILE * LANES) {
            sum_tile<TILE>(out + i, values, latents, p.k, known, p.W_dec + i, p.d);
        }
        for (; i + LANES <= p.d; i += LANES) sum_tile<1>(out + i, values, latents, p.k, known, p.W_dec + i, p.d);
        for (; i < p.d; ++i) {
            out[i] = 0;
            for (int64_t s = 0; s < p.k; ++s) out[i] += values[s] * p.W_dec[latents[s] * p.d + i];
        }
        if (p.b_pre) axpy(out, 1.0f, p.b_pre, p.d);
        if (p.x) axpy(out, -1.0f, p.x + b * p.d, p.d);
        if (p.squares) p.squares[b] = dot(out, out, p.d);
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio

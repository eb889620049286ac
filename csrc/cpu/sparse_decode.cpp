// sparse_decode and sparse_residual: one thread per row, the next decoder row prefetched while this one is added.
#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace revelio {
namespace REVELIO_ISA {

void sparse_decode(const SparseDecode &p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t b = 0; b < p.B; ++b) {
        float *out = p.out + b * p.d;
        const float *values = p.values + b * p.k;
        const int64_t *indices = p.indices + b * p.k;
        zero(out, p.d);
        for (int64_t s = 0; s < p.k; ++s) {
            if (s + 1 < p.k) prefetch_row(p.W_dec + indices[s + 1] * p.d, p.d);
            axpy(out, values[s], p.W_dec + indices[s] * p.d, p.d);
        }
        if (p.b_pre) axpy(out, 1.0f, p.b_pre, p.d);
        if (p.x) axpy(out, -1.0f, p.x + b * p.d, p.d);
        if (p.squares) p.squares[b] = dot(out, out, p.d);
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio

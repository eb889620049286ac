// The gradients of one latent's two rows, from its entries: shared by sparse_backward and adam_unit_norm_step.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace revelio {
namespace REVELIO_ISA {

constexpr int64_t LATENTS_PER_CHUNK = 256;  // fixed, so that sums over latents do not depend on the thread count

// Adds to g_dec and g_enc (either may be null) and returns the gradient of b_enc[j].
static inline float latent_gradients(const SparseBackward &p, int64_t j, float *g_dec, float *g_enc) {
    float db = 0;
    for (int64_t e = p.offsets[j]; e < p.offsets[j + 1]; ++e) {
        const int64_t row = p.rows[e], slot = p.slots[e], at = row * p.k + slot;
        if (e + 1 < p.offsets[j + 1]) prefetch_row(p.x + p.rows[e + 1] * p.d, p.d);
        float dpre;
        if (p.dpre_given) {
            dpre = p.dpre_given[at];
        } else {
            const bool aux = slot >= p.k - p.k_aux;
            const float *grad = (aux ? p.grad_aux : p.grad) + row * p.d;
            const float dvalue = dot(grad, p.W_dec + j * p.d, p.d);
            if (p.dvalues) p.dvalues[at] = dvalue;
            if (g_dec) axpy(g_dec, p.values[at], grad, p.d);
            dpre = p.relu && !(p.values[at] > 0) ? 0.0f : dvalue;
        }
        if (g_enc) {
            const float *x = p.x + row * p.d;
#pragma omp simd
            for (int64_t i = 0; i < p.d; ++i) g_enc[i] += dpre * (x[i] - p.b_pre[i]);
        }
        db += dpre;
    }
    return db;
}

// total[i] = sum of chunks[c][i] over c, in order.
static inline void sum_chunks(const double *chunks, int64_t count, int64_t d, double *total) {
    for (int64_t i = 0; i < d; ++i) total[i] = 0;
    for (int64_t c = 0; c < count; ++c) {
        for (int64_t i = 0; i < d; ++i) total[i] += chunks[c * d + i];
    }
}

// total[i] -> sum over rows of grad[row][i] minus total[i], in an order that does not depend on threads.
static inline void finish_db_pre(const SparseBackward &p, double *total) {
    for (int64_t i = 0; i < p.d; ++i) total[i] = -total[i];
    if (!p.grad) return;
    for (int64_t row = 0; row < p.B; ++row) {
        const float *grad = p.grad + row * p.d;
        for (int64_t i = 0; i < p.d; ++i) total[i] += grad[i];
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio

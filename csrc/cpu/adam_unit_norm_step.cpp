// adam_unit_norm_step: gradient, projection, Adam and unit norm of a latent while its rows are in cache. Gradients live
// in two row buffers per thread; memory traffic is one read and one write of parameters and moments.
#include <cmath>

#include "cpu/latent_gradients.h"

namespace revelio {
namespace REVELIO_ISA {

struct AdamConstants {
    float one_minus_beta1, beta2, one_minus_beta2, root_of_correction2, eps, step_size;
};

// torch.optim.Adam: m = lerp(m, g, 1 - beta1); v = beta2 v + (1 - beta2) g^2; w -= step_size m / (sqrt(v) / c + eps)
static inline void adam(float *__restrict w, float *__restrict m, float *__restrict v, const float *__restrict g,
                        int64_t d, const AdamConstants &c) {
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) {
        m[i] += c.one_minus_beta1 * (g[i] - m[i]);
        v[i] = v[i] * c.beta2 + c.one_minus_beta2 * g[i] * g[i];
        w[i] -= c.step_size * m[i] / (sqrtf(v[i]) / c.root_of_correction2 + c.eps);
    }
}

void adam_unit_norm_step(const AdamStep &p) {
    const SparseBackward &q = p.gradients;
    const int64_t d = q.d, n = q.n;
    AdamConstants c = {
        static_cast<float>(1 - p.beta1), static_cast<float>(p.beta2),
        static_cast<float>(1 - p.beta2), static_cast<float>(sqrt(1 - pow(p.beta2, static_cast<double>(p.step)))),
        static_cast<float>(p.eps),       static_cast<float>(p.lr / (1 - pow(p.beta1, static_cast<double>(p.step))))};
    if (p.scalars) {
        c.step_size = p.scalars[0];
        c.root_of_correction2 = p.scalars[1];
    }
    const int64_t chunks = (n + LATENTS_PER_CHUNK - 1) / LATENTS_PER_CHUNK;
    Scratch<double> partial(chunks * d), total(d);
    Scratch<float> gradients(2 * d * q.threads), db_pre(d);
#pragma omp parallel num_threads(q.threads)
    {
        float *g_dec = gradients.data + 2 * d * thread_number(), *g_enc = g_dec + d;
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t end = (chunk + 1) * LATENTS_PER_CHUNK < n ? (chunk + 1) * LATENTS_PER_CHUNK : n;
            double *sum = partial.data + chunk * d;
            for (int64_t i = 0; i < d; ++i) sum[i] = 0;
            for (int64_t j = chunk * LATENTS_PER_CHUNK; j < end; ++j) {
                zero(g_dec, d);
                zero(g_enc, d);
                const float db = latent_gradients(q, j, g_dec, g_enc);
                float *w_enc = p.W_enc + j * d, *w_dec = p.W_dec + j * d;
                if (q.offsets[j] < q.offsets[j + 1]) {
                    for (int64_t i = 0; i < d; ++i) sum[i] += static_cast<double>(db) * w_enc[i];
                    if (p.project) axpy(g_dec, -dot(g_dec, w_dec, d), w_dec, d);
                }
                adam(w_enc, p.m_enc + j * d, p.v_enc + j * d, g_enc, d, c);
                adam(w_dec, p.m_dec + j * d, p.v_dec + j * d, g_dec, d, c);
                adam(p.b_enc + j, p.m_b_enc + j, p.v_b_enc + j, &db, 1, c);
                if (p.unit_norm) {
                    const float norm = sqrtf(dot(w_dec, w_dec, d)), divisor = norm > 1e-12f ? norm : 1e-12f;
                    for (int64_t i = 0; i < d; ++i) w_dec[i] /= divisor;
                }
            }
        }
    }
    sum_chunks(partial.data, chunks, d, total.data);
    finish_db_pre(q, total.data);
    for (int64_t i = 0; i < d; ++i) db_pre.data[i] = static_cast<float>(total.data[i]);
    adam(p.b_pre, p.m_b_pre, p.v_b_pre, db_pre.data, d, c);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

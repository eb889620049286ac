// adam_unit_norm_step: gradient, projection, Adam and unit norm of a latent while its rows are in cache. A gradient exists
// one vector at a time; memory traffic is one read and one write of parameters and moments, and the entries' rows.
#include <cmath>

#include "cpu/latent_gradients.h"

namespace revelio {
namespace REVELIO_ISA {

struct AdamConstants {
    float one_minus_beta1, beta2, one_minus_beta2, root_factor, eps, step_size;
};

struct AdamRow {
    float *w, *m, *v;
};

// torch.optim.Adam: m = lerp(m, g, 1 - beta1); v = beta2 v + (1 - beta2) g^2; w -= step_size m / (sqrt(v) / c + eps).
// With 1 / c as a factor one root and one division are left, on which this arithmetic waits. Returns the new w.
static inline Vector adam(const AdamRow &row, Vector g, int64_t i, int64_t lanes, const AdamConstants &c) {
    Vector m = load(row.m + i, lanes), v = load(row.v + i, lanes), w = load(row.w + i, lanes);
    m += c.one_minus_beta1 * (g - m);
    v = v * c.beta2 + c.one_minus_beta2 * g * g;
    w -= c.step_size * m / (root(v) * c.root_factor + c.eps);
    store(row.m + i, m, lanes);
    store(row.v + i, v, lanes);
    store(row.w + i, w, lanes);
    return w;
}

static AdamConstants constants(const AdamStep &p) {
    const double step = static_cast<double>(p.step), correction2 = sqrt(1 - pow(p.beta2, step));
    AdamConstants c = {static_cast<float>(1 - p.beta1),   static_cast<float>(p.beta2),
                       static_cast<float>(1 - p.beta2),   static_cast<float>(1 / correction2),
                       static_cast<float>(p.eps),         static_cast<float>(p.lr / (1 - pow(p.beta1, step)))};
    if (p.scalars) {
        c.step_size = p.scalars[0];
        c.root_factor = 1 / p.scalars[1];
    }
    return c;
}

// Updates latent j and adds what it takes from the gradient of b_pre to `taken`; fetches the rows of the entries of the
// latent after it. g_enc and g_dec are room for the gradients of a latent with more than GROUP entries.
static inline void update_latent(const AdamStep &p, const AdamConstants &c, int64_t j, float *taken, float *g_enc,
                                 float *g_dec) {
    const SparseBackward &q = p.gradients;
    const int64_t d = q.d, begin = q.offsets[j], end = q.offsets[j + 1];
    const AdamRow enc = {p.W_enc + j * d, p.m_enc + j * d, p.v_enc + j * d};
    const AdamRow dec = {p.W_dec + j * d, p.m_dec + j * d, p.v_dec + j * d};
    Entries group;
    group.count = 0;
    EntrySums sums = {};
    const bool several = end - begin > GROUP;
    if (several) {
        zero(g_enc, d);
        zero(g_dec, d);
    }
    for (int64_t e = begin; e < end; e += GROUP) {
        if (e > begin) add_group(q, group, g_enc, g_dec);
        group = entries(q, e, end);
        backpropagate(q, j, e, group, sums);
    }
    const Entries next = entries(q, end, j + 1 < q.n ? q.offsets[j + 2] : end);
    by_vectors(d, [&](int64_t i, int64_t lanes) REVELIO_INLINE {
        for (int64_t e = 0; e < next.count; ++e) prefetch_line(next.grad[e], i);
        if (begin < end) store(taken + i, load(taken + i, lanes) + sums.dpre * load(enc.w + i, lanes), lanes);
        const Vector sum = several ? load(g_enc + i, lanes) : Vector{};
        adam(enc, add_encoder(sum, q, group, i, lanes), i, lanes, c);
    });
    Vector squares = {};
    const float along = p.project ? sums.along : 0.0f;
    by_vectors(d, [&](int64_t i, int64_t lanes) REVELIO_INLINE {
        for (int64_t e = 0; e < next.count; ++e) prefetch_line(next.x[e], i);
        const Vector sum = several ? load(g_dec + i, lanes) : Vector{};
        const Vector g = add_decoder(sum, group, i, lanes) - along * load(dec.w + i, lanes);
        const Vector w = adam(dec, g, i, lanes, c);
        squares += w * w;
    });
    adam({p.b_enc + j, p.m_b_enc + j, p.v_b_enc + j}, Vector{sums.dpre}, 0, 1, c);
    if (p.unit_norm) {
        const float norm = sqrtf(sum_of_lanes(squares)), factor = 1 / (norm > 1e-12f ? norm : 1e-12f);
        for (int64_t i = 0; i < d; ++i) dec.w[i] *= factor;
    }
}

void adam_unit_norm_step(const AdamStep &p) {
    const SparseBackward &q = p.gradients;
    const int64_t d = q.d, n = q.n, chunks = (n + LATENTS_PER_CHUNK - 1) / LATENTS_PER_CHUNK;
    const AdamConstants c = constants(p);
    Scratch<float> taken(chunks * d), gradients(2 * d * q.threads), db_pre(d);
#pragma omp parallel num_threads(q.threads)
    {
        float *g_enc = gradients.data + 2 * d * thread_number(), *g_dec = g_enc + d;
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t end = (chunk + 1) * LATENTS_PER_CHUNK < n ? (chunk + 1) * LATENTS_PER_CHUNK : n;
            float *sum = taken.data + chunk * d;
            zero(sum, d);
            for (int64_t j = chunk * LATENTS_PER_CHUNK; j < end; ++j) update_latent(p, c, j, sum, g_enc, g_dec);
        }
    }
    gradient_of_b_pre(q, taken.data, chunks, db_pre.data);
    by_vectors(d, [&](int64_t i, int64_t lanes) REVELIO_INLINE {
        adam({p.b_pre, p.m_b_pre, p.v_b_pre}, load(db_pre.data + i, lanes), i, lanes, c);
    });
}

}  // namespace REVELIO_ISA
}  // namespace revelio

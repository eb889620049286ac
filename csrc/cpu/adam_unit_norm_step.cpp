// adam_unit_norm_step: gradient, projection, Adam and unit norm of a latent while its rows are in cache. A gradient
// exists one vector at a time; memory traffic is one read and one write of parameters and moments, and the entries'
// rows.
#include <cmath>

#include "cpu/latent_gradients.h"

namespace revelio {
namespace REVELIO_ISA {

struct AdamConstants {
    float one_minus_beta1, beta2, one_minus_beta2, root_factor, eps, step_size;
    bool rest;  // with m = v = g = 0 the update is 0 (not so without eps): w keeps its bits
};

struct AdamRow {
    float *w, *m, *v;
};

// torch.optim.Adam: m = lerp(m, g, 1 - beta1); v = beta2 v + (1 - beta2) g^2; w -= step_size m / (sqrt(v) / c + eps).
// With 1 / c as a factor one root and one division are left, on which this arithmetic waits.
static inline void adam(const AdamRow &row, Vector g, int64_t i, int64_t lanes, const AdamConstants &c) {
    Vector m = load(row.m + i, lanes), v = load(row.v + i, lanes), w = load(row.w + i, lanes);
    m += c.one_minus_beta1 * (g - m);
    v = v * c.beta2 + c.one_minus_beta2 * g * g;
    w -= c.step_size * m / (root(v) * c.root_factor + c.eps);
    store(row.m + i, m, lanes);
    store(row.v + i, v, lanes);
    store(row.w + i, w, lanes);
}

static inline void prefetch_lines(const AdamRow &row, int64_t i) {
    prefetch_line(row.w, i);
    prefetch_line(row.m, i);
    prefetch_line(row.v, i);
}

static AdamConstants constants(const AdamStep &p) {
    const double step = static_cast<double>(p.step), correction2 = sqrt(1 - pow(p.beta2, step));
    AdamConstants c = {static_cast<float>(1 - p.beta1),
                       static_cast<float>(p.beta2),
                       static_cast<float>(1 - p.beta2),
                       1 / static_cast<float>(correction2),
                       static_cast<float>(p.eps),
                       static_cast<float>(p.lr / (1 - pow(p.beta1, step))),
                       false};
    if (p.scalars) {
        c.step_size = p.scalars[0];
        c.root_factor = 1 / p.scalars[1];
    }
    c.rest = c.step_size * 0.0f / (0.0f * c.root_factor + c.eps) == 0;
    return c;
}

// Scales the row to unit norm; whether that changed no bit of it.
static bool normalise(float *w, int64_t d) {
    const float norm = sqrtf(dot(w, w, d)), divisor = norm > 1e-12f ? norm : 1e-12f;
    if (divisor == 1.0f) return true;
    int changed = 0;
#pragma omp simd reduction(| : changed)
    for (int64_t i = 0; i < d; ++i) {
        const float before = w[i];
        w[i] /= divisor;
        changed |= w[i] != before;
    }
    return !changed;
}

static inline bool all_plus_zero(const float *row, int64_t d) {
    uint32_t first;
    memcpy(&first, row, sizeof first);
    return first == 0 && memcmp(row, row + 1, sizeof(float) * (d - 1)) == 0;
}

// Why a latent without entries may be skipped, to the bit: if its moments are all +0, they are after the step as well,
// and w - 0 = w whatever the step's scalars are, so Adam changes nothing, now and until the latent has an entry. Unit
// norm is a function of the row alone: where it changes no bit once, it never will, and the latent is settled.
static inline bool moments_are_zero(const AdamStep &p, int64_t j, int64_t d) {
    return all_plus_zero(p.m_enc + j * d, d) && all_plus_zero(p.v_enc + j * d, d) &&
           all_plus_zero(p.m_dec + j * d, d) && all_plus_zero(p.v_dec + j * d, d) && all_plus_zero(p.m_b_enc + j, 1) &&
           all_plus_zero(p.v_b_enc + j, 1);
}

// The first latent of j .. end that has entries or is not settled; else end.
static inline int64_t first_to_update(const AdamStep &p, const AdamConstants &c, int64_t j, int64_t end) {
    const int64_t *offsets = p.gradients.offsets;
    while (p.skip_mask && c.rest && j < end && p.skip_mask[j] && offsets[j] == offsets[j + 1]) ++j;
    return j;
}

// Updates latent j and adds what it takes from the gradient of b_pre to `taken`; fetches the rows of the latent after
// it, `distance` floats further on, and of `next`, its first entries. g_enc and g_dec are room for the gradients of a
// latent with more than GROUP entries.
static inline void update_latent(const AdamStep &p, const AdamConstants &c, int64_t j, int64_t distance,
                                 const Entries &next, float *taken, float *g_enc, float *g_dec) {
    const SparseBackward &q = p.gradients;
    const int64_t d = q.d, begin = q.offsets[j], end = q.offsets[j + 1];
    const AdamRow enc = {p.W_enc + j * d, p.m_enc + j * d, p.v_enc + j * d};
    const AdamRow dec = {p.W_dec + j * d, p.m_dec + j * d, p.v_dec + j * d};
    if (begin == end && c.rest && moments_are_zero(p, j, d)) {
        const bool kept = !p.unit_norm || normalise(dec.w, d);
        if (p.skip_mask) p.skip_mask[j] = kept;
        return;
    }
    if (p.skip_mask) p.skip_mask[j] = 0;
    Entries group = entries(q, begin, begin);
    EntrySums sums = {};
    const bool several = end - begin > GROUP;
    if (several) {
        zero(g_enc, d);
        zero(g_dec, d);
    }
    for (int64_t e = begin; e < end; e += GROUP) {
        Entries more = entries(q, e, end);
        if (e > begin) add_group(q, group, g_enc, g_dec, more);
        backpropagate(q, j, e, more, sums);
        group = more;
    }
    by_vectors(d, [&](int64_t i, int64_t lanes) REVELIO_INLINE {
        prefetch_lines({enc.w + distance, enc.m + distance, enc.v + distance}, i);
        for (int64_t e = 0; e < next.count; ++e) prefetch_line(next.grad[e], i);
        if (begin < end) store(taken + i, load(taken + i, lanes) + sums.dpre * load(enc.w + i, lanes), lanes);
        const Vector sum = several ? load(g_enc + i, lanes) : Vector{};
        adam(enc, add_encoder(sum, q, group, i, lanes), i, lanes, c);
    });
    const float along = p.project ? sums.along : 0.0f;
    by_vectors(d, [&](int64_t i, int64_t lanes) REVELIO_INLINE {
        prefetch_lines({dec.w + distance, dec.m + distance, dec.v + distance}, i);
        for (int64_t e = 0; e < next.count; ++e) prefetch_line(next.x[e], i);
        const Vector sum = several ? load(g_dec + i, lanes) : Vector{};
        const Vector g = add_decoder(sum, group, i, lanes) - along * load(dec.w + i, lanes);
        adam(dec, g, i, lanes, c);
    });
    adam({p.b_enc + j, p.m_b_enc + j, p.v_b_enc + j}, Vector{sums.dpre}, 0, 1, c);
    if (p.unit_norm) normalise(dec.w, d);
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
            int64_t j = first_to_update(p, c, chunk * LATENTS_PER_CHUNK, end);
            while (j < end) {
                const int64_t next = first_to_update(p, c, j + 1, end);
                const int64_t first = q.offsets[next], last = next < end ? q.offsets[next + 1] : first;
                update_latent(p, c, j, next < end ? (next - j) * d : 0, entries(q, first, last), sum, g_enc, g_dec);
                j = next;
            }
        }
    }
    gradient_of_b_pre(q, taken.data, chunks, db_pre.data);
    by_vectors(d, [&](int64_t i, int64_t lanes) REVELIO_INLINE {
        adam({p.b_pre, p.m_b_pre, p.v_b_pre}, load(db_pre.data + i, lanes), i, lanes, c);
    });
}

}  // namespace REVELIO_ISA
}  // namespace revelio

// sparse_backward: one thread owns a latent, so there are no atomics and the result is the same for any thread count.
#include "cpu/latent_gradients.h"

namespace revelio {
namespace REVELIO_ISA {

// dx = sum of dpre W_enc rows: an output row belongs to one thread.
static void gradient_of_x(const SparseBackward &p) {
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t b = 0; b < p.B; ++b) {
        zero(p.dx + b * p.d, p.d);
        for (int64_t s = 0; s < p.k; ++s) {
            const int64_t at = b * p.k + s;
            float dpre = p.dpre_given ? p.dpre_given[at] : p.dvalues[at];
            if (!p.dpre_given && p.relu && !(p.values[at] > 0)) dpre = 0;
            axpy(p.dx + b * p.d, dpre, p.W_enc + p.indices[at] * p.d, p.d);
        }
    }
}

void sparse_backward(const SparseBackward &p) {
    const int64_t chunks = (p.n + LATENTS_PER_CHUNK - 1) / LATENTS_PER_CHUNK;
    Scratch<float> partial(p.db_pre ? chunks * p.d : 0);
#pragma omp parallel for num_threads(p.threads) schedule(dynamic, 1)
    for (int64_t c = 0; c < chunks; ++c) {
        const int64_t end = (c + 1) * LATENTS_PER_CHUNK < p.n ? (c + 1) * LATENTS_PER_CHUNK : p.n;
        float *sum = p.db_pre ? partial.data + c * p.d : nullptr;
        if (sum) zero(sum, p.d);
        for (int64_t j = c * LATENTS_PER_CHUNK; j < end; ++j) {
            float *g_dec = p.dW_dec ? p.dW_dec + j * p.d : nullptr, *g_enc = p.dW_enc ? p.dW_enc + j * p.d : nullptr;
            if (g_dec) zero(g_dec, p.d);
            if (g_enc) zero(g_enc, p.d);
            EntrySums sums = {};
            Entries next = entries(p, p.offsets[j], p.offsets[j + 1]);
            for (int64_t e = p.offsets[j]; e < p.offsets[j + 1]; e += GROUP) {
                Entries group = next;
                next = entries(p, e + GROUP, p.offsets[j + 1]);
                backpropagate(p, j, e, group, sums);
                add_group(p, group, g_enc, g_dec, next);
            }
            if (p.db_enc) p.db_enc[j] = sums.dpre;
            if (sum && p.offsets[j] < p.offsets[j + 1]) axpy(sum, sums.dpre, p.W_enc + j * p.d, p.d);
        }
    }
    if (p.db_pre) gradient_of_b_pre(p, partial.data, chunks, p.db_pre);
    if (p.dx) gradient_of_x(p);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

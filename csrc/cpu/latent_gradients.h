// The gradients of one latent's two rows, from its entries: shared by sparse_backward and adam_unit_norm_step.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace revelio {
namespace REVELIO_ISA {

constexpr int64_t LATENTS_PER_CHUNK = 256;  // fixed, so that sums over latents do not depend on the thread count
constexpr int64_t GROUP = 8;                // entries that are added up in registers

// Up to GROUP entries of a latent. Its gradients are sums over entries of
// d loss / d W_enc = dpre (x - b_pre) and d loss / d W_dec = value grad.
struct Entries {
    const float *x[GROUP], *grad[GROUP];
    float dpre[GROUP], value[GROUP];
    int64_t count;
};

// Where the rows of entries begin .. end lie; of none if end <= begin.
static inline Entries entries(const SparseBackward &p, int64_t begin, int64_t end) {
    Entries group;
    group.count = end - begin < GROUP ? (end > begin ? end - begin : 0) : GROUP;
    for (int64_t q = 0; q < group.count; ++q) {
        const int64_t row = p.rows[begin + q], slot = p.slots[begin + q];
        group.x[q] = p.x + row * p.d;
        group.grad[q] = (slot >= p.k - p.k_aux ? p.grad_aux : p.grad_x_hat) + row * p.d;
        group.value[q] = p.values ? p.values[row * p.k + slot] : 0.0f;
    }
    return group;
}

// The sums over a latent's entries of dpre, its gradient of b_enc, and of value dvalue, which is <d W_dec, W_dec>.
struct EntrySums {
    float dpre, along;
};

// Fills in dpre of a group that begins at entry `begin` of latent j.
static inline void backpropagate(const SparseBackward &p, int64_t j, int64_t begin, Entries &group, EntrySums &sums) {
    for (int64_t q = 0; q < group.count; ++q) {
        const int64_t at = p.rows[begin + q] * p.k + p.slots[begin + q];
        if (p.dpre_given) {
            group.dpre[q] = p.dpre_given[at];
        } else {
            const float dvalue = dot(group.grad[q], p.W_dec + j * p.d, p.d);
            if (p.dvalues) p.dvalues[at] = dvalue;
            group.dpre[q] = p.relu && !(group.value[q] > 0) ? 0.0f : dvalue;
            sums.along += group.value[q] * dvalue;
        }
        sums.dpre += group.dpre[q];
    }
}

// sum + the group's gradient of elements i .. i + lanes of the encoder row.
static inline Vector add_encoder(Vector sum, const SparseBackward &p, const Entries &group, int64_t i, int64_t lanes) {
    const Vector centre = load(p.b_pre + i, lanes);
    for (int64_t q = 0; q < group.count; ++q) sum += group.dpre[q] * (load(group.x[q] + i, lanes) - centre);
    return sum;
}

// The same of the decoder row.
static inline Vector add_decoder(Vector sum, const Entries &group, int64_t i, int64_t lanes) {
    for (int64_t q = 0; q < group.count; ++q) sum += group.value[q] * load(group.grad[q] + i, lanes);
    return sum;
}

// Adds the gradients of a group to g_enc and g_dec; either may be null. Fetches the rows of another group meanwhile.
static inline void add_group(const SparseBackward &p, const Entries &group, float *g_enc, float *g_dec,
                             const Entries &next) {
    by_vectors(p.d, [&](int64_t i, int64_t lanes) REVELIO_INLINE {
        for (int64_t q = 0; q < next.count; ++q) {
            prefetch_line(next.grad[q], i);
            prefetch_line(next.x[q], i);
        }
        if (g_enc) store(g_enc + i, add_encoder(load(g_enc + i, lanes), p, group, i, lanes), lanes);
        if (g_dec) store(g_dec + i, add_decoder(load(g_dec + i, lanes), group, i, lanes), lanes);
    });
}

// db_pre[i] = sum over rows of grad[row][i], minus that over chunks of latents; every column in one order.
static inline void gradient_of_b_pre(const SparseBackward &p, const float *chunks, int64_t count, float *db_pre) {
    constexpr int64_t COLUMNS = 320;
#pragma omp parallel for num_threads(p.threads) schedule(static)
    for (int64_t first = 0; first < p.d; first += COLUMNS) {
        const int64_t columns = p.d - first < COLUMNS ? p.d - first : COLUMNS;
        double total[COLUMNS] = {};
        for (int64_t c = 0; c < count; ++c) {
            for (int64_t i = 0; i < columns; ++i) total[i] -= chunks[c * p.d + first + i];
        }
        for (int64_t row = 0; p.grad_x_hat && row < p.B; ++row) {
            for (int64_t i = 0; i < columns; ++i) total[i] += p.grad_x_hat[row * p.d + first + i];
        }
        for (int64_t i = 0; i < columns; ++i) db_pre[first + i] = static_cast<float>(total[i]);
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio

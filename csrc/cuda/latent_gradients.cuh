// The gradients of one latent's two rows from its entries, and the sums behind the gradient of b_pre: device code
// shared by sparse_backward and adam_unit_norm_step. No atomics: every sum is taken in an order that the entries alone
// fix.
#pragma once

#include "cuda/launch.cuh"
#include "cuda/vector.cuh"

namespace revelio {
namespace cuda {

constexpr int CHUNK = 64;  // entries that another block sums beforehand, where a latent has that many
constexpr int GROUP = 16;  // latents of a block: one row of b_pre's gradient is stored per group
constexpr int MOST_THREADS = 256;
constexpr int64_t MOST_SHARED = 40 * 1024;  // for rows; beside it lies a batch, and CUDA gives 48 KiB unasked

// Entries [c CHUNK, (c + 1) CHUNK) of the inverse code, where one latent owns them all, are summed by a block of their
// own: rows [c, 2, d] (decoder, encoder) and sums [c, 2] (gradient of b_enc; <dW_dec, W_dec>). A latent that every row
// uses is so spread over the device, and the block that finishes it adds the chunks in order.
struct Workspace {
    float *chunk_rows;
    float *b_pre_rows;  // [groups, d]: sum of db_enc W_enc over a group's latents
    float *chunk_sums;
};

inline int64_t chunks_of(const SparseBackward &p) {
    return p.B * p.k / CHUNK;
}

inline Workspace workspace_at(void *memory, const SparseBackward &p) {
    float *rows = static_cast<float *>(memory), *groups = rows + chunks_of(p) * 2 * p.d;
    return {rows, groups, groups + ceil_div(p.n, GROUP) * p.d};
}

// Four floats at a time where every row of every tensor starts at a multiple of 16 bytes.
template <typename... Pointers>
bool wide(int64_t d, Pointers... pointers) {
    std::uintptr_t bits = 0;
    for (const void *pointer : {static_cast<const void *>(pointers)...})
        bits |= reinterpret_cast<std::uintptr_t>(pointer);
    return d % 4 == 0 && bits % 16 == 0;
}

// Threads for rows of d floats: the fewest passes over a row, then the fewest warps.
inline int threads_for(int64_t d, int width) {
    const int64_t vectors = ceil_div(d, width), passes = ceil_div(vectors, MOST_THREADS);
    return static_cast<int>(ceil_div(ceil_div(vectors, passes), WARP) * WARP);
}

// The entries of a latent: `heads` from begin, then whole chunks [first, last), then `tails` from the last chunk's end.
struct Span {
    int64_t begin, first, last;
    int heads, tails;
    bool empty;
};

__device__ inline Span span_of(const SparseBackward &p, int64_t j) {
    const int64_t begin = p.offsets[j], end = p.offsets[j + 1];
    const int64_t first = (begin + CHUNK - 1) / CHUNK, last = end / CHUNK;
    if (first >= last) return {begin, 0, 0, static_cast<int>(end - begin), 0, begin == end};
    return {begin, first, last, static_cast<int>(first * CHUNK - begin), static_cast<int>(end - last * CHUNK), false};
}

// What the threads of a block know of the entries at hand.
struct Batch {
    const float *x[2 * CHUNK], *grad[2 * CHUNK];
    float value[2 * CHUNK], dpre[2 * CHUNK], along[2 * CHUNK];  // along: the entry's share of <dW_dec, W_dec>
};

// Fills the batch with the span's heads and tails, one warp an entry; w_dec is the latent's decoder row.
template <int WIDTH>
__device__ inline void read_entries(const SparseBackward &p, const Span &span, const float *w_dec, Batch &batch) {
    for (int i = threadIdx.x / WARP; i < span.heads + span.tails; i += blockDim.x / WARP) {
        const int64_t e = i < span.heads ? span.begin + i : span.last * CHUNK + (i - span.heads);
        const int64_t row = p.rows[e], slot = p.slots[e], at = row * p.k + slot;
        const float *grad = nullptr;
        float value = 0, dvalue = 0, dpre;
        if (p.dpre_given) {
            dpre = p.dpre_given[at];
        } else {
            grad = (slot >= p.k - p.k_aux ? p.grad_aux : p.grad_x_hat) + row * p.d;
            value = p.values[at];
            dvalue = warp_dot<WIDTH>(grad, w_dec, p.d);
            dpre = p.relu && !(value > 0) ? 0.0f : dvalue;
        }
        if (threadIdx.x % WARP == 0) {
            batch.x[i] = p.x ? p.x + row * p.d : nullptr;
            batch.grad[i] = grad;
            batch.value[i] = value;
            batch.dpre[i] = dpre;
            batch.along[i] = value * dvalue;
            if (p.dvalues) p.dvalues[at] = dvalue;
        }
    }
}

template <int WIDTH>
struct RowGradients {
    Vector<WIDTH> dec, enc;
};

// Adds columns i .. i + WIDTH of the batch's entries [from, to).
template <int WIDTH>
__device__ inline void add_entries(const SparseBackward &p, const Batch &batch, int from, int to, int64_t i,
                                   const Vector<WIDTH> &b_pre, RowGradients<WIDTH> &sums) {
#pragma unroll 2
    for (int e = from; e < to; ++e) {
        if (p.grad_x_hat) axpy(sums.dec, batch.value[e], load<WIDTH>(batch.grad[e] + i));
        if (p.x) {
            Vector<WIDTH> x = load<WIDTH>(batch.x[e] + i);
#pragma unroll
            for (int l = 0; l < WIDTH; ++l) x.at[l] -= b_pre.at[l];
            axpy(sums.enc, batch.dpre[e], x);
        }
    }
}

// Columns i .. i + WIDTH of a latent's gradients: heads, chunks, tails.
template <int WIDTH>
__device__ inline RowGradients<WIDTH> gradients_at(const SparseBackward &p, const Workspace &w, const Span &span,
                                                   const Batch &batch, int64_t i) {
    RowGradients<WIDTH> sums = {};
    Vector<WIDTH> b_pre = {};
    if (p.x) b_pre = load<WIDTH>(p.b_pre + i);
    add_entries<WIDTH>(p, batch, 0, span.heads, i, b_pre, sums);
    for (int64_t c = span.first; c < span.last; ++c) {
        axpy(sums.dec, 1.0f, load<WIDTH>(w.chunk_rows + c * 2 * p.d + i));
        axpy(sums.enc, 1.0f, load<WIDTH>(w.chunk_rows + (c * 2 + 1) * p.d + i));
    }
    add_entries<WIDTH>(p, batch, span.heads, span.heads + span.tails, i, b_pre, sums);
    return sums;
}

struct LatentSums {
    float db_enc, along;
};

// The same in every thread: each adds the few numbers itself.
__device__ inline LatentSums sums_of(const Workspace &w, const Span &span, const Batch &batch) {
    LatentSums sums = {0, 0};
    for (int e = 0; e < span.heads; ++e) sums = {sums.db_enc + batch.dpre[e], sums.along + batch.along[e]};
    for (int64_t c = span.first; c < span.last; ++c) {
        sums = {sums.db_enc + w.chunk_sums[c * 2], sums.along + w.chunk_sums[c * 2 + 1]};
    }
    for (int e = span.heads; e < span.heads + span.tails; ++e) {
        sums = {sums.db_enc + batch.dpre[e], sums.along + batch.along[e]};
    }
    return sums;
}

__device__ inline int64_t latent_of(const SparseBackward &p, int64_t e) {
    return p.indices[p.rows[e] * p.k + p.slots[e]];
}

namespace {

template <int WIDTH>
__global__ void __launch_bounds__(MOST_THREADS, 3) sum_chunks(SparseBackward p, Workspace w) {
    static __shared__ Batch batch;
    const int64_t c = blockIdx.x, begin = c * CHUNK;
    if (begin + CHUNK > p.offsets[p.n]) return;
    const int64_t j = latent_of(p, begin);
    if (latent_of(p, begin + CHUNK - 1) != j) return;
    const Span span = {begin, 0, 0, CHUNK, 0, false};
    read_entries<WIDTH>(p, span, p.W_dec + j * p.d, batch);
    __syncthreads();
#pragma unroll 1
    for (int64_t i = threadIdx.x * WIDTH; i < p.d; i += blockDim.x * WIDTH) {
        const RowGradients<WIDTH> sums = gradients_at<WIDTH>(p, w, span, batch, i);
        store(w.chunk_rows + c * 2 * p.d + i, sums.dec);
        store(w.chunk_rows + (c * 2 + 1) * p.d + i, sums.enc);
    }
    if (threadIdx.x == 0) {
        const LatentSums sums = sums_of(w, span, batch);
        w.chunk_sums[c * 2] = sums.db_enc;
        w.chunk_sums[c * 2 + 1] = sums.along;
    }
}

constexpr int COLUMNS = 32, PARTS = 16;  // of a block that sums columns: one warp reads 128 bytes of a row

// Column blockIdx.x * 32 + lane of sum(grad) - sum(b_pre_rows), in float64; valid in the block's first warp.
__device__ inline double b_pre_gradient(const SparseBackward &p, const Workspace &w, int64_t groups) {
    static __shared__ double parts[PARTS][COLUMNS];
    const int lane = threadIdx.x % COLUMNS, part = threadIdx.x / COLUMNS;
    const int64_t i = blockIdx.x * static_cast<int64_t>(COLUMNS) + lane;
    double sum = 0;
    if (i < p.d) {
        for (int64_t b = part; p.grad_x_hat && b < p.B; b += PARTS) sum += p.grad_x_hat[b * p.d + i];
        for (int64_t g = part; g < groups; g += PARTS) sum -= w.b_pre_rows[g * p.d + i];
    }
    parts[part][lane] = sum;
    __syncthreads();
    sum = 0;
    for (int other = 0; part == 0 && other < PARTS; ++other) sum += parts[other][lane];
    return sum;
}

}  // namespace
}  // namespace cuda
}  // namespace revelio

// adam_unit_norm_step: a block takes 16 latents in turn and reads and writes each one's rows and moments once:
// gradients of both rows in registers, projection, Adam, unit norm, bfloat16 copy. 25.3 bytes a parameter
// (docs/gpu-kernels.md).
#include <cmath>

#include "cuda/latent_gradients.cuh"

namespace revelio {
namespace cuda {

extern __shared__ float4 row_memory[];  // as large as the launch says

namespace {

// The encoder's rows in bfloat16, with the norms of each row and of what rounding took off it; all null or none.
struct EncoderShadow {
    uint16_t *weights;         // [n, d]
    float *norms, *residuals;  // [n]
};

struct AdamConstants {
    float one_minus_beta1, beta2, one_minus_beta2, eps, step_size, root_of_correction2;
    const float *scalars;  // the last two, read on the device; or null
};

__device__ inline AdamConstants resolved(AdamConstants c) {
    if (c.scalars) {
        c.step_size = c.scalars[0];
        c.root_of_correction2 = c.scalars[1];
    }
    return c;
}

struct Moments {
    float m, v;
};

// torch.optim.Adam, operation by operation (lerp, mul, addcmul, sqrt, div, add, addcdiv), fused where torch's are.
__device__ inline float adam(float w, Moments &moments, float g, const AdamConstants &c) {
    moments.m = fmaf(c.one_minus_beta1, g - moments.m, moments.m);
    moments.v = fmaf(c.one_minus_beta2 * g, g, moments.v * c.beta2);
    return w - c.step_size * moments.m / (sqrtf(moments.v) / c.root_of_correction2 + c.eps);
}

template <int WIDTH>
__device__ inline Vector<WIDTH> adam_at(const Vector<WIDTH> &w, float *m, float *v, const Vector<WIDTH> &g,
                                        const AdamConstants &c) {
    Vector<WIDTH> means = load<WIDTH>(m), squares = load<WIDTH>(v), updated;
#pragma unroll
    for (int l = 0; l < WIDTH; ++l) {
        Moments moments = {means.at[l], squares.at[l]};
        updated.at[l] = adam(w.at[l], moments, g.at[l], c);
        means.at[l] = moments.m;
        squares.at[l] = moments.v;
    }
    store(m, means);
    store(v, squares);
    return updated;
}

// To nearest, ties to even; NaN stays NaN.
__device__ inline uint16_t bf16_bits(float value) {
    const unsigned bits = __float_as_uint(value);
    if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <int WIDTH>
struct alignas(WIDTH * sizeof(uint16_t)) HalfVector {
    uint16_t at[WIDTH];
};

struct Squares {
    float dec, enc, residual;
};

// Stores the bfloat16 copy and adds up what its norms need.
template <int WIDTH>
__device__ inline void shadow_at(uint16_t *to, const Vector<WIDTH> &w, Squares &squares) {
    HalfVector<WIDTH> rounded;
#pragma unroll
    for (int l = 0; l < WIDTH; ++l) {
        rounded.at[l] = bf16_bits(w.at[l]);
        const float rest = w.at[l] - __uint_as_float(static_cast<unsigned>(rounded.at[l]) << 16);
        squares.enc = fmaf(w.at[l], w.at[l], squares.enc);
        squares.residual = fmaf(rest, rest, squares.residual);
    }
    *reinterpret_cast<HalfVector<WIDTH> *>(to) = rounded;
}

constexpr int MOST_WARPS = MOST_THREADS / WARP;

// Sums over the block, the same bits in every thread. `parts` is one of two that take turns, so that no thread writes
// what another still reads: one barrier a latent is enough.
__device__ inline Squares block_sums(Squares squares, Squares *parts) {
    squares = {warp_sum(squares.dec), warp_sum(squares.enc), warp_sum(squares.residual)};
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = squares;
    __syncthreads();
    squares = parts[0];
    for (unsigned warp = 1; warp < blockDim.x / WARP; ++warp) {
        squares = {squares.dec + parts[warp].dec, squares.enc + parts[warp].enc,
                   squares.residual + parts[warp].residual};
    }
    return squares;
}

// rows_in_shared: the decoder row at hand and the group's row of b_pre's gradient live in dynamic shared memory; else,
// for very long rows, in W_dec itself and in the workspace. Threads touch their own columns only, but for the dot
// products of read_entries, which read the decoder row whole.
template <int WIDTH>
__global__ void __launch_bounds__(MOST_THREADS, 2)
    sweep(AdamStep p, EncoderShadow shadow, Workspace w, AdamConstants constants, bool rows_in_shared) {
    static __shared__ Batch batch;
    static __shared__ Squares parts[2][MOST_WARPS];
    const SparseBackward &q = p.gradients;
    const AdamConstants c = resolved(constants);
    const int64_t d = q.d, end = min((blockIdx.x + int64_t(1)) * GROUP, q.n);
    const Vector<WIDTH> zero = {};
    float *stored_b_pre = w.b_pre_rows + blockIdx.x * d;
    float *b_pre_row = rows_in_shared ? reinterpret_cast<float *>(row_memory) + d : stored_b_pre;
    for (int64_t i = threadIdx.x * WIDTH; i < d; i += blockDim.x * WIDTH) store(b_pre_row + i, zero);

    for (int64_t j = blockIdx.x * static_cast<int64_t>(GROUP); j < end; ++j) {
        const Span span = span_of(q, j);
        float *w_dec = rows_in_shared ? reinterpret_cast<float *>(row_memory) : p.W_dec + j * d;
        if (rows_in_shared) {
            for (int64_t i = threadIdx.x * WIDTH; i < d; i += blockDim.x * WIDTH) {
                store(w_dec + i, load<WIDTH>(p.W_dec + j * d + i));
            }
        }
        LatentSums sums = {0, 0};
        if (!span.empty) {
            __syncthreads();
            read_entries<WIDTH>(q, span, w_dec, batch);
            __syncthreads();
            sums = sums_of(w, span, batch);
        }
        Squares squares = {0, 0, 0};
#pragma unroll 1
        for (int64_t i = threadIdx.x * WIDTH; i < d; i += blockDim.x * WIDTH) {
            const int64_t at = j * d + i;
            Vector<WIDTH> enc = load<WIDTH>(p.W_enc + at), dec = load<WIDTH>(w_dec + i);
            RowGradients<WIDTH> gradients = {};
            if (!span.empty) {
                gradients = gradients_at<WIDTH>(q, w, span, batch, i);
                if (p.project) axpy(gradients.dec, -sums.along, dec);
                Vector<WIDTH> b_pre = load<WIDTH>(b_pre_row + i);
                axpy(b_pre, sums.db_enc, enc);
                store(b_pre_row + i, b_pre);
            }
            enc = adam_at(enc, p.m_enc + at, p.v_enc + at, gradients.enc, c);
            store(p.W_enc + at, enc);
            if (shadow.weights) shadow_at(shadow.weights + at, enc, squares);
            dec = adam_at(dec, p.m_dec + at, p.v_dec + at, gradients.dec, c);
            store(w_dec + i, dec);
#pragma unroll
            for (int l = 0; l < WIDTH; ++l) squares.dec = fmaf(dec.at[l], dec.at[l], squares.dec);
        }
        squares = block_sums(squares, parts[j % 2]);
        const float norm = sqrtf(squares.dec), divisor = !p.unit_norm ? 1.0f : norm > 1e-12f ? norm : 1e-12f;
        for (int64_t i = threadIdx.x * WIDTH; i < d; i += blockDim.x * WIDTH) {
            Vector<WIDTH> dec = load<WIDTH>(w_dec + i);
#pragma unroll
            for (int l = 0; l < WIDTH; ++l) dec.at[l] /= divisor;
            store(p.W_dec + j * d + i, dec);
        }
        if (threadIdx.x == 0) {
            Moments moments = {p.m_b_enc[j], p.v_b_enc[j]};
            p.b_enc[j] = adam(p.b_enc[j], moments, sums.db_enc, c);
            p.m_b_enc[j] = moments.m;
            p.v_b_enc[j] = moments.v;
            if (shadow.weights) {
                shadow.norms[j] = sqrtf(squares.enc);
                shadow.residuals[j] = sqrtf(squares.residual);
            }
        }
    }
    if (rows_in_shared) {
        for (int64_t i = threadIdx.x * WIDTH; i < d; i += blockDim.x * WIDTH) {
            store(stored_b_pre + i, load<WIDTH>(b_pre_row + i));
        }
    }
}

__global__ void __launch_bounds__(COLUMNS *PARTS)
    step_b_pre(AdamStep p, Workspace w, AdamConstants constants, int64_t groups) {
    const double gradient = b_pre_gradient(p.gradients, w, groups);
    const int64_t i = blockIdx.x * static_cast<int64_t>(COLUMNS) + threadIdx.x;
    if (threadIdx.x >= COLUMNS || i >= p.gradients.d) return;
    Moments moments = {p.m_b_pre[i], p.v_b_pre[i]};
    p.b_pre[i] = adam(p.b_pre[i], moments, static_cast<float>(gradient), resolved(constants));
    p.m_b_pre[i] = moments.m;
    p.v_b_pre[i] = moments.v;
}

template <int WIDTH>
void run(const AdamStep &p, const EncoderShadow &shadow, const Workspace &w, const AdamConstants &c,
         const Place &place) {
    const SparseBackward &q = p.gradients;
    const int threads = threads_for(q.d, WIDTH);
    const int64_t groups = ceil_div(q.n, GROUP), two_rows = 2 * q.d * static_cast<int64_t>(sizeof(float));
    const bool shared = two_rows <= MOST_SHARED;
    launch("adam_unit_norm_step: sum_chunks", place, sum_chunks<WIDTH>, chunks_of(q), threads, 0, q, w);
    launch("adam_unit_norm_step: sweep", place, sweep<WIDTH>, groups, threads, shared ? two_rows : 0, p, shadow, w, c,
           shared);
    launch("adam_unit_norm_step: step_b_pre", place, step_b_pre, ceil_div(q.d, COLUMNS), COLUMNS * PARTS, 0, p, w, c,
           groups);
}

}  // namespace

void adam_unit_norm_step(const AdamStep &p, const Place &place) {
    const DeviceGuard guard(place.device);
    const EncoderShadow shadow = {p.shadow_weights, p.shadow_norms, p.shadow_residuals};
    const SparseBackward &q = p.gradients;
    const Workspace w = workspace_at(place.workspace, q);
    const double step = static_cast<double>(p.step);
    const AdamConstants c = {static_cast<float>(1 - p.beta1),
                             static_cast<float>(p.beta2),
                             static_cast<float>(1 - p.beta2),
                             static_cast<float>(p.eps),
                             static_cast<float>(p.lr / (1 - std::pow(p.beta1, step))),
                             static_cast<float>(std::sqrt(1 - std::pow(p.beta2, step))),
                             p.scalars};
    if (wide(q.d, q.x, q.grad_x_hat, q.grad_aux, p.W_enc, p.W_dec, p.b_pre, p.m_enc, p.v_enc, p.m_dec, p.v_dec,
             shadow.weights, place.workspace))
        run<4>(p, shadow, w, c, place);
    else
        run<1>(p, shadow, w, c, place);
}

}  // namespace cuda
}  // namespace revelio

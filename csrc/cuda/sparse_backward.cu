// sparse_backward: a block takes 16 latents in turn. One warp per entry makes <grad, W_dec row>, then each thread sums
// its own columns of both gradient rows over the entries. Heavy latents are cut into chunks (latent_gradients.cuh).
#include "cuda/latent_gradients.cuh"

namespace revelio {
namespace cuda {
namespace {

template <int WIDTH>
__global__ void __launch_bounds__(MOST_THREADS, 3) latent_rows(SparseBackward p, Workspace w) {
    static __shared__ Batch batch;
    const int64_t end = min((blockIdx.x + int64_t(1)) * GROUP, p.n);
    float *b_pre_row = w.b_pre_rows + blockIdx.x * p.d;
    const Vector<WIDTH> zero = {};
    if (p.db_pre) {
        for (int64_t i = threadIdx.x * WIDTH; i < p.d; i += blockDim.x * WIDTH) store(b_pre_row + i, zero);
    }
    for (int64_t j = blockIdx.x * static_cast<int64_t>(GROUP); j < end; ++j) {
        const Span span = span_of(p, j);
        if (!span.empty) {
            __syncthreads();  // all have done with the batch of the latent before
            read_entries<WIDTH>(p, span, p.W_dec + j * p.d, batch);
            __syncthreads();
        }
        const LatentSums sums = sums_of(w, span, batch);
#pragma unroll 1
        for (int64_t i = threadIdx.x * WIDTH; i < p.d; i += blockDim.x * WIDTH) {
            const RowGradients<WIDTH> gradients = gradients_at<WIDTH>(p, w, span, batch, i);
            if (p.dW_dec) store(p.dW_dec + j * p.d + i, gradients.dec);
            if (p.dW_enc) store(p.dW_enc + j * p.d + i, gradients.enc);
            if (p.db_pre && !span.empty) {
                Vector<WIDTH> row = load<WIDTH>(b_pre_row + i);
                axpy(row, sums.db_enc, load<WIDTH>(p.W_enc + j * p.d + i));
                store(b_pre_row + i, row);
            }
        }
        if (p.db_enc && threadIdx.x == 0) p.db_enc[j] = sums.db_enc;
    }
}

__global__ void __launch_bounds__(COLUMNS *PARTS) sum_b_pre(SparseBackward p, Workspace w, int64_t groups) {
    const double gradient = b_pre_gradient(p, w, groups);
    const int64_t i = blockIdx.x * static_cast<int64_t>(COLUMNS) + threadIdx.x;
    if (threadIdx.x < COLUMNS && i < p.d) p.db_pre[i] = static_cast<float>(gradient);
}

// dx = sum of dpre W_enc rows, in the order of the slots.
template <int WIDTH>
__global__ void __launch_bounds__(MOST_THREADS, 4) gradient_of_x(SparseBackward p) {
    for (int64_t b = blockIdx.x; b < p.B; b += gridDim.x) {
        for (int64_t i = threadIdx.x * WIDTH; i < p.d; i += blockDim.x * WIDTH) {
            Vector<WIDTH> sum = {};
            for (int64_t at = b * p.k; at < (b + 1) * p.k; ++at) {
                const int64_t j = p.indices[at];
                if (j < 0 || j >= p.n) continue;  // no latent, as in invert_code
                float dpre = p.dpre_given ? p.dpre_given[at] : p.dvalues[at];
                if (!p.dpre_given && p.relu && !(p.values[at] > 0)) dpre = 0;
                axpy(sum, dpre, load<WIDTH>(p.W_enc + j * p.d + i));
            }
            store(p.dx + b * p.d + i, sum);
        }
    }
}

template <int WIDTH>
void run(const SparseBackward &p, const Workspace &w, const Place &place) {
    const int threads = threads_for(p.d, WIDTH);
    const int64_t groups = ceil_div(p.n, GROUP);
    launch("sparse_backward: sum_chunks", place, sum_chunks<WIDTH>, chunks_of(p), threads, 0, p, w);
    launch("sparse_backward: latent_rows", place, latent_rows<WIDTH>, groups, threads, 0, p, w);
    if (p.db_pre) {
        launch("sparse_backward: sum_b_pre", place, sum_b_pre, ceil_div(p.d, COLUMNS), COLUMNS * PARTS, 0, p, w,
               groups);
    }
    if (p.dx) {
        const int64_t blocks = p.B < 65536 ? p.B : 65536;
        launch("sparse_backward: gradient_of_x", place, gradient_of_x<WIDTH>, blocks, threads, 0, p);
    }
}

}  // namespace

int64_t sparse_backward_workspace(int64_t entries, int64_t n, int64_t d) {
    const int64_t chunks = entries / CHUNK;
    return static_cast<int64_t>(sizeof(float)) * (chunks * 2 * d + ceil_div(n, GROUP) * d + chunks * 2);
}

void sparse_backward(const SparseBackward &p, const Place &place) {
    const DeviceGuard guard(place.device);
    const Workspace w = workspace_at(place.workspace, p);
    if (wide(p.d, p.x, p.grad_x_hat, p.grad_aux, p.W_enc, p.W_dec, p.b_pre, p.dW_dec, p.dW_enc, p.dx, place.workspace))
        run<4>(p, w, place);
    else
        run<1>(p, w, place);
}

}  // namespace cuda
}  // namespace revelio

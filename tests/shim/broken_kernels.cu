// Kernels that are wrong in one way each, for test_shim.py: the shim must say so.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda/launch.cuh"

namespace revelio {
namespace cuda {

extern __shared__ float4 row_memory[];

namespace {

// out[t] = the number that another thread wrote, with and without the barrier between.
__global__ void reverse(int *out, bool barrier) {
    static __shared__ int numbers[64];
    numbers[threadIdx.x] = static_cast<int>(threadIdx.x);
    if (barrier) __syncthreads();
    out[threadIdx.x] = numbers[blockDim.x - 1 - threadIdx.x];
}

// Lane 0 tells the others through shared memory; the shuffle between orders nothing.
__global__ void tell(int *out, bool barrier) {
    static __shared__ int number;
    if (threadIdx.x == 0) number = 7;
    if (barrier) __syncwarp();
    out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, 1, 0);
    out[threadIdx.x] = number;
}

__global__ void barrier_for_some(int *) {
    if (threadIdx.x < 3) __syncthreads();
}

__global__ void shuffle_for_some(int *out) {
    if (threadIdx.x < 5) out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, 1, 0);
}

__global__ void two_masks(int *out) {
    out[threadIdx.x] = static_cast<int>(threadIdx.x < 16 ? __ballot_sync(0xFFFFu, threadIdx.x % 2)
                                                         : __ballot_sync(0xFFFF0000u, threadIdx.x % 4 == 0));
}

__global__ void store_past_shared_memory(int *) {
    row_memory[threadIdx.x + 1].x = 1;
}

void run(const std::string &name, int *out, int threads) {
    const Place place = {0, 0};
    if (name == "reverse") launch("reverse", place, reverse, 1, threads, 0, out, true);
    if (name == "reverse without barrier") launch("reverse", place, reverse, 1, threads, 0, out, false);
    if (name == "tell") launch("tell", place, tell, 1, threads, 0, out, true);
    if (name == "tell without barrier") launch("tell", place, tell, 1, threads, 0, out, false);
    if (name == "barrier for some") launch("barrier_for_some", place, barrier_for_some, 1, threads, 0, out);
    if (name == "shuffle for some") launch("shuffle_for_some", place, shuffle_for_some, 1, threads, 0, out);
    if (name == "two masks") launch("two_masks", place, two_masks, 1, threads, 0, out);
    if (name == "store past") launch("store_past", place, store_past_shared_memory, 1, threads, 16 * threads, out);
}

}  // namespace
}  // namespace cuda
}  // namespace revelio

// Runs the kernel of that name; what went wrong, or an empty text.
extern "C" __attribute__((visibility("default"))) const char *run_kernel(const char *name, int *out, int threads) {
    static std::string problem;
    problem.clear();
    try {
        revelio::cuda::run(name, out, threads);
    } catch (const std::exception &error) {
        problem = error.what();
    }
    return problem.c_str();
}

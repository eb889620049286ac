// Rows of d floats on the device: loads of one or four floats, and sums over a warp whose order is fixed.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace revelio {
namespace cuda {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xFFFFFFFFu;

template <int WIDTH>
struct alignas(WIDTH * sizeof(float)) Vector {
    float at[WIDTH];
};

template <int WIDTH>
__device__ inline Vector<WIDTH> load(const float *from) {
    return *reinterpret_cast<const Vector<WIDTH> *>(from);
}

template <int WIDTH>
__device__ inline void store(float *to, const Vector<WIDTH> &vector) {
    *reinterpret_cast<Vector<WIDTH> *>(to) = vector;
}

// y += a x
template <int WIDTH>
__device__ inline void axpy(Vector<WIDTH> &y, float a, const Vector<WIDTH> &x) {
#pragma unroll
    for (int l = 0; l < WIDTH; ++l) y.at[l] = fmaf(a, x.at[l], y.at[l]);
}

// The same bits in every lane: the additions of a butterfly commute.
__device__ inline float warp_sum(float value) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(ALL_LANES, value, step);
    return value;
}

// <a, b> over d floats, by the 32 lanes of a warp.
template <int WIDTH>
__device__ inline float warp_dot(const float *a, const float *b, int64_t d) {
    Vector<WIDTH> sums = {};
    for (int64_t i = threadIdx.x % WARP * WIDTH; i < d; i += WARP * WIDTH) {
        const Vector<WIDTH> left = load<WIDTH>(a + i), right = load<WIDTH>(b + i);
#pragma unroll
        for (int l = 0; l < WIDTH; ++l) sums.at[l] = fmaf(left.at[l], right.at[l], sums.at[l]);
    }
    float sum = sums.at[0];
#pragma unroll
    for (int l = 1; l < WIDTH; ++l) sum += sums.at[l];
    return warp_sum(sum);
}

}  // namespace cuda
}  // namespace revelio

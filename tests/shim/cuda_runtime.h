// Stands in for CUDA's header of this name: the shipped .cu files, compiled by g++ with this folder first on the
// include path, run on the CPU. A CUDA thread is a fiber, a block is a set of fibers in a seeded random order; see
// shim.cpp. What kernels may use: one-dimensional grids and blocks, static or extern __shared__ arrays, the functions
// below.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
// One section, so that shared memory can be filled with garbage before each block and buffered per thread (shim.cpp).
#define __shared__ __attribute__((section("shim_shared")))

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) float4 {
    float x, y, z, w;
};

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevice = 101
};
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrComputeCapabilityMinor = 76 };
using cudaStream_t = struct CUstream_st *;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned numAttrs;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t error);

namespace shim {

enum class Kind { BARRIER, SYNCWARP, SHUFFLE, BALLOT, MATCH };

cudaError_t run(const cudaLaunchConfig_t &config, const std::function<void()> &thread);
// Waits until every lane of the mask has arrived at an operation of this kind; `source` is the lane to read from.
uint64_t warp_operation(Kind kind, unsigned mask, uint64_t value, int source);
void barrier();
int lane();

template <typename T>
T shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = warp_operation(Kind::SHUFFLE, mask, bits, source);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace shim

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
    return shim::run(*config, [=] { kernel(arguments...); });
}

inline void __syncthreads() {
    shim::barrier();
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) {
    shim::warp_operation(shim::Kind::SYNCWARP, mask, 0, 0);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return static_cast<unsigned>(shim::warp_operation(shim::Kind::BALLOT, mask, predicate != 0, 0));
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
    return static_cast<unsigned>(shim::warp_operation(shim::Kind::MATCH, mask, static_cast<uint64_t>(value), 0));
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
    return shim::shuffle(mask, value, source);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
    return shim::shuffle(mask, value, shim::lane() ^ step);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned step) {
    const int source = shim::lane() - static_cast<int>(step);
    return shim::shuffle(mask, value, source < 0 ? shim::lane() : source);
}

inline int64_t min(int64_t a, int64_t b) {
    return a < b ? a : b;
}
inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}
inline int __ffs(int bits) {
    return __builtin_ffs(bits);
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

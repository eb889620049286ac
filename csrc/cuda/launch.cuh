// How a kernel is launched: on the caller's device and stream, with a failure that names the kernel.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda/kernels.h"

namespace revelio {
namespace cuda {

inline void check(cudaError_t error, const char *what, int device) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // a failed launch must not be reported again by an innocent call
    throw std::runtime_error(std::string("CUDA: ") + what + " on device " + std::to_string(device) +
                             " failed: " + cudaGetErrorString(error));
}

// Makes the device current in this runtime and gives the former one back, for processes with several devices.
class DeviceGuard {
   public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice", device);
        check(cudaSetDevice(device), "cudaSetDevice", device);
    }
    ~DeviceGuard() { cudaSetDevice(before_); }
    DeviceGuard(const DeviceGuard &) = delete;
    DeviceGuard &operator=(const DeviceGuard &) = delete;

   private:
    int before_ = 0;
};

// No blocks, no launch: CUDA refuses an empty grid.
template <typename... Parameters, typename... Arguments>
void launch(const char *name, const Place &place, void (*kernel)(Parameters...), int64_t blocks, int threads,
            int64_t shared_bytes, Arguments... arguments) {
    if (blocks == 0) return;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = reinterpret_cast<cudaStream_t>(place.stream);
    check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), name, place.device);
}

inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

}  // namespace cuda
}  // namespace revelio

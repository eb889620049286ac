// Device queries through the static CUDA runtime: they work, and find nothing, on a machine without a driver.
#include "cuda/device_info.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace revelio {

int device_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

int compute_capability(int device) {
    int major = 0, minor = 0;
    cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (error != cudaSuccess) {
        throw std::runtime_error("CUDA device " + std::to_string(device) + ": " + cudaGetErrorString(error));
    }
    return major * 10 + minor;
}

}  // namespace revelio

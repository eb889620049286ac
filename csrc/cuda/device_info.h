// What the CUDA runtime says of this machine.
#pragma once

namespace revelio {

// Number of usable devices; 0 without a driver.
int device_count();

// Compute capability of a device, as major * 10 + minor. Throws std::runtime_error with CUDA's own message.
int compute_capability(int device);

}  // namespace revelio

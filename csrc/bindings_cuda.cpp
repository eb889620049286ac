// Python bindings of the CUDA module: raw pointers, a device and a stream in, no libtorch. A call only launches
// kernels.
#include <pybind11/pybind11.h>

#include "bindings_params.h"
#include "cuda/device_info.h"
#include "cuda/kernels.h"

namespace py = pybind11;
using namespace revelio;

namespace {

void invert(Address indices, Address offsets, Address rows, Address slots, Address workspace, int64_t B, int64_t k,
            int64_t n, int device, Address stream) {
    cuda::invert_code({at<int64_t>(indices), at<int64_t>(offsets), at<int64_t>(rows), at<int64_t>(slots),
                       at<void>(workspace), B, k, n},
                      {device, stream});
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA side of revelio_fast; importable on a machine without a driver.";
    module.def("device_count", &device_count);
    module.def("compute_capability", &compute_capability);
    module.def("invert_code_workspace", &cuda::invert_code_workspace);
    module.def("invert_code", &invert);
}

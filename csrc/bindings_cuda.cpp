// Python bindings of the CUDA module: raw pointers and streams in, no libtorch.
#include <pybind11/pybind11.h>

#include "cuda/device_info.h"

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA side of revelio_fast; importable on a machine without a driver.";
    module.def("device_count", &revelio::device_count);
    module.def("compute_capability", &revelio::compute_capability);
}

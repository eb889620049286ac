// Python bindings of the CUDA kernels, without libtorch. Each takes the fields of its params struct and of Place as
// keywords (python_fields.h); a call only launches kernels.
#include <pybind11/pybind11.h>

#include "cuda/device_info.h"
#include "cuda/kernels.h"
#include "python_fields.h"

namespace py = pybind11;
using namespace revelio;

namespace {

template <typename Params>
auto launched(const char *name, void (*run)(const Params &, const cuda::Place &)) {
    return [name, run](const py::kwargs &keywords) {
        Params p = {};
        cuda::Place place = {};
        fill(name, keywords, p, place);
        run(p, place);
    };
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA kernels of revelio_fast; importable on a machine without a driver.";
    module.def("device_count", &device_count);
    module.def("compute_capability", &compute_capability);
    module.def("invert_code_workspace", &cuda::invert_code_workspace);
    module.def("sparse_backward_workspace", &cuda::sparse_backward_workspace);
    module.def("invert_code", launched("invert_code", &cuda::invert_code));
    module.def("sparse_backward", launched("sparse_backward", &cuda::sparse_backward));
    module.def("adam_unit_norm_step", launched("adam_unit_norm_step", &cuda::adam_unit_norm_step));
    module.def("top_activations_update", launched("top_activations_update", &cuda::top_activations_update));
}

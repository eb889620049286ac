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

void sparse_backward(const py::dict &addresses, Address workspace, int64_t B, int64_t k, int64_t k_aux, int64_t d,
                     int64_t n, bool relu, int device, Address stream) {
    cuda::sparse_backward(backward_params(addresses, B, k, k_aux, d, n, relu, 0), at<void>(workspace),
                          {device, stream});
}

void adam_unit_norm_step(const py::dict &addresses, const py::dict &rows, const py::dict &shadow, Address workspace,
                         int64_t B, int64_t k, int64_t k_aux, int64_t d, int64_t n, bool relu, int64_t step, double lr,
                         double beta1, double beta2, double eps, bool project, bool unit_norm, int device,
                         Address stream) {
    const AdamStep p = adam_params(backward_params(addresses, B, k, k_aux, d, n, relu, 0), rows, step, lr, beta1, beta2,
                                   eps, project, unit_norm);
    cuda::adam_unit_norm_step(
        p, {find<uint16_t>(shadow, "weights"), find<float>(shadow, "norms"), find<float>(shadow, "residuals")},
        at<void>(workspace), {device, stream});
}

void top_activations_update(Address top_values, Address top_image_ids, Address sums, Address counts, Address values,
                            Address image_ids, Address offsets, Address rows, Address slots, int64_t n, int64_t m,
                            int64_t k, int device, Address stream) {
    cuda::top_activations_update(
        {at<float>(top_values), at<int64_t>(top_image_ids), at<double>(sums), at<int64_t>(counts), at<float>(values),
         at<int64_t>(image_ids), at<int64_t>(offsets), at<int64_t>(rows), at<int64_t>(slots), n, m, k, 0},
        {device, stream});
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA side of revelio_fast; importable on a machine without a driver.";
    module.def("device_count", &device_count);
    module.def("compute_capability", &compute_capability);
    module.def("invert_code_workspace", &cuda::invert_code_workspace);
    module.def("invert_code", &invert);
    module.def("sparse_backward_workspace", &cuda::sparse_backward_workspace);
    module.def("sparse_backward", &sparse_backward);
    module.def("adam_unit_norm_step", &adam_unit_norm_step);
    module.def("top_activations_update", &top_activations_update);
}

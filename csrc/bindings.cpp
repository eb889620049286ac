// Python bindings of the CPU kernels: the only C++ file here that knows Python. Tensors come as the address of their
// first element; shapes and dtypes were checked in revelio_fast/ops.
#include <pybind11/pybind11.h>

#include <string>

#include "cpu/dispatch.h"

namespace py = pybind11;
using namespace revelio;

namespace {

using Address = std::uintptr_t;

template <typename T>
T *at(Address address) {
    return reinterpret_cast<T *>(address);
}

// Called with the GIL held, before any kernel runs.
void check_latents(const int64_t *indices, int64_t count, int64_t n) {
    for (int64_t e = 0; e < count; ++e) {
        if (indices[e] < 0 || indices[e] >= n) {
            throw py::value_error("code.indices must lie in [0, " + std::to_string(n) + "), got " +
                                  std::to_string(indices[e]));
        }
    }
}

void topk_encode(Address x, Address W_enc, Address b_enc, Address b_pre, Address values, Address indices, int64_t B,
                 int64_t d, int64_t n, int64_t k, bool relu, bool bf16, int threads) {
    const Kernels &chosen = kernels();
    py::gil_scoped_release unlocked;
    chosen.topk_encode({at<float>(x), at<float>(W_enc), at<float>(b_enc), at<float>(b_pre), at<float>(values),
                        at<int64_t>(indices), B, d, n, k, relu, bf16, threads});
}

void sparse_decode(Address values, Address indices, Address W_dec, Address b_pre, Address x_hat, int64_t B, int64_t k,
                   int64_t d, int64_t n, int threads) {
    const Kernels &chosen = kernels();
    check_latents(at<int64_t>(indices), B * k, n);
    py::gil_scoped_release unlocked;
    chosen.sparse_decode({at<float>(values), at<int64_t>(indices), at<float>(W_dec), at<float>(b_pre), at<float>(x_hat),
                          B, k, d, threads});
}

void invert(Address indices, int64_t B, int64_t k, int64_t n, Address offsets, Address rows, Address slots) {
    check_latents(at<int64_t>(indices), B * k, n);
    py::gil_scoped_release unlocked;
    invert_code(at<int64_t>(indices), B * k, k, n, at<int64_t>(offsets), at<int64_t>(rows), at<int64_t>(slots));
}

// The fields of SparseBackward in order, addresses as a dictionary; a missing one is null.
SparseBackward backward_params(const py::dict &a, int64_t B, int64_t k, int64_t k_aux, int64_t d, int64_t n, bool relu,
                               int threads) {
    const auto get = [&](const char *name) -> Address { return a.contains(name) ? a[name].cast<Address>() : 0; };
    SparseBackward p = {at<float>(get("x")),
                        at<float>(get("values")),
                        at<float>(get("grad")),
                        at<float>(get("grad_aux")),
                        at<float>(get("W_enc")),
                        at<float>(get("W_dec")),
                        at<float>(get("b_pre")),
                        at<int64_t>(get("indices")),
                        at<int64_t>(get("offsets")),
                        at<int64_t>(get("rows")),
                        at<int64_t>(get("slots")),
                        at<float>(get("dpre_given")),
                        at<float>(get("dW_dec")),
                        at<float>(get("dW_enc")),
                        at<float>(get("db_enc")),
                        at<float>(get("db_pre")),
                        at<float>(get("dvalues")),
                        at<float>(get("dx")),
                        B,
                        k,
                        k_aux,
                        d,
                        n,
                        relu,
                        threads};
    check_latents(p.indices, B * k, n);
    return p;
}

void sparse_backward(const py::dict &addresses, int64_t B, int64_t k, int64_t k_aux, int64_t d, int64_t n, bool relu,
                     int threads) {
    const Kernels &chosen = kernels();
    const SparseBackward p = backward_params(addresses, B, k, k_aux, d, n, relu, threads);
    py::gil_scoped_release unlocked;
    chosen.sparse_backward(p);
}

void adam_unit_norm_step(const py::dict &addresses, const py::dict &rows, int64_t B, int64_t k, int64_t k_aux,
                         int64_t d, int64_t n, bool relu, int threads, int64_t step, double lr, double beta1,
                         double beta2, double eps, bool project, bool unit_norm) {
    const Kernels &chosen = kernels();
    const auto get = [&](const char *name) { return at<float>(rows[name].cast<Address>()); };
    const AdamStep p = {backward_params(addresses, B, k, k_aux, d, n, relu, threads),
                        get("W_enc"),
                        get("W_dec"),
                        get("b_enc"),
                        get("b_pre"),
                        get("m_enc"),
                        get("v_enc"),
                        get("m_dec"),
                        get("v_dec"),
                        get("m_b_enc"),
                        get("v_b_enc"),
                        get("m_b_pre"),
                        get("v_b_pre"),
                        step,
                        lr,
                        beta1,
                        beta2,
                        eps,
                        project,
                        unit_norm};
    py::gil_scoped_release unlocked;
    chosen.adam_unit_norm_step(p);
}

void top_activations_update(Address top_values, Address top_image_ids, Address sums, Address counts, Address values,
                            Address image_ids, Address offsets, Address rows, Address slots, int64_t n, int64_t m,
                            int64_t k, int threads) {
    const Kernels &chosen = kernels();
    py::gil_scoped_release unlocked;
    chosen.top_activations_update({at<float>(top_values), at<int64_t>(top_image_ids), at<double>(sums),
                                   at<int64_t>(counts), at<float>(values), at<int64_t>(image_ids), at<int64_t>(offsets),
                                   at<int64_t>(rows), at<int64_t>(slots), n, m, k, threads});
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "CPU kernels of revelio_fast; called through revelio_fast/ops/cpu.";
    module.def("isa", [] { return std::string(kernels().isa); });
    module.def("topk_encode", &topk_encode);
    module.def("sparse_decode", &sparse_decode);
    module.def("invert_code", &invert);
    module.def("sparse_backward", &sparse_backward);
    module.def("adam_unit_norm_step", &adam_unit_norm_step);
    module.def("top_activations_update", &top_activations_update);
}

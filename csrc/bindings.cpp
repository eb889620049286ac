// Python bindings of the CPU kernels: the only C++ file here that knows Python. Tensors come as the address of their
// first element; shapes and dtypes were checked in revelio_fast/ops.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings_params.h"
#include "cpu/dispatch.h"
#include "cpu/limits.h"

namespace py = pybind11;
using namespace revelio;

namespace {

// The checks run before any kernel, so a refused call has changed nothing.
void check_latents(const int64_t *indices, int64_t count, int64_t n) {
    for (int64_t e = 0; e < count; ++e) {
        if (indices[e] < 0 || indices[e] >= n) {
            throw py::value_error("code.indices must lie in [0, " + std::to_string(n) + "), got " +
                                  std::to_string(indices[e]));
        }
    }
}

// An inverse of another batch would give wrong numbers in silence, a damaged one would reach outside the tensors. With
// B k entries in all, each naming its own latent and rising within it, every entry of the code is listed exactly once.
void check_inverse(const int64_t *indices, int64_t B, int64_t k, int64_t n, const int64_t *offsets, const int64_t *rows,
                   const int64_t *slots) {
    const auto refuse = [] {
        throw py::value_error("inverse does not belong to this code: pass invert_code(code, n) of the same batch");
    };
    if (offsets[0] != 0 || offsets[n] != B * k) refuse();
    for (int64_t j = 0; j < n; ++j) {
        if (offsets[j + 1] < offsets[j] || offsets[j + 1] > B * k) refuse();
        for (int64_t e = offsets[j], last = -1; e < offsets[j + 1]; ++e) {
            if (rows[e] < 0 || rows[e] >= B || slots[e] < 0 || slots[e] >= k) refuse();
            const int64_t at = rows[e] * k + slots[e];
            if (at <= last || indices[at] != j) refuse();
            last = at;
        }
    }
}

// screen: "few", "int8", "bf16" or "". Returns how many scores it left to float32, and how many rows it gave up on; 0
// and 0 without a screen, which is also what a processor without such dot products gives.
py::tuple topk_encode(Address x, Address W_enc, Address b_enc, Address b_pre, Address values, Address indices,
                      int64_t B, int64_t d, int64_t n, int64_t k, bool relu, bool bf16, const std::string &screen,
                      int threads) {
    const Kernels &chosen = kernels();
    const TopkEncode p = {at<float>(x),
                          at<float>(W_enc),
                          at<float>(b_enc),
                          at<float>(b_pre),
                          at<float>(values),
                          at<int64_t>(indices),
                          B,
                          d,
                          n,
                          k,
                          relu,
                          bf16,
                          threads};
    ScreenCounts counts = {0, 0};
    {
        py::gil_scoped_release unlocked;
        if (screen == "few") {
            counts = bf16 && chosen.topk_few_bf16 ? chosen.topk_few_bf16(p) : chosen.topk_few(p);
        } else if (screen == "int8" && chosen.topk_screen_int8) {
            counts = chosen.topk_screen_int8(p, chosen.topk_screen_bf16);
        } else if (screen == "bf16" && chosen.topk_screen_bf16) {
            counts = chosen.topk_screen_bf16(p);
        } else if (bf16 && chosen.topk_encode_bf16) {
            chosen.topk_encode_bf16(p);
        } else {
            chosen.topk_encode(p);
        }
    }
    return py::make_tuple(counts.rescored, counts.fallback_rows);
}

void sparse_decode(Address values, Address indices, Address W_dec, Address b_pre, Address x_hat, int64_t B, int64_t k,
                   int64_t d, int64_t n, int threads) {
    const Kernels &chosen = kernels();
    py::gil_scoped_release unlocked;
    check_latents(at<int64_t>(indices), B * k, n);
    chosen.sparse_decode({at<float>(values), at<int64_t>(indices), at<float>(W_dec), at<float>(b_pre), nullptr,
                          at<float>(x_hat), nullptr, B, k, d, threads});
}

void sparse_residual(Address values, Address indices, Address W_dec, Address b_pre, Address x, Address residual,
                     Address squares, int64_t B, int64_t k, int64_t d, int64_t n, int threads) {
    const Kernels &chosen = kernels();
    py::gil_scoped_release unlocked;
    check_latents(at<int64_t>(indices), B * k, n);
    chosen.sparse_decode({at<float>(values), at<int64_t>(indices), at<float>(W_dec), at<float>(b_pre), at<float>(x),
                          at<float>(residual), at<float>(squares), B, k, d, threads});
}

void invert(Address indices, int64_t B, int64_t k, int64_t n, Address offsets, Address rows, Address slots) {
    py::gil_scoped_release unlocked;
    check_latents(at<int64_t>(indices), B * k, n);
    invert_code(at<int64_t>(indices), B * k, k, n, at<int64_t>(offsets), at<int64_t>(rows), at<int64_t>(slots));
}

void check(const SparseBackward &p) {
    check_latents(p.indices, p.B * p.k, p.n);
    check_inverse(p.indices, p.B, p.k, p.n, p.offsets, p.rows, p.slots);
}

void sparse_backward(const py::dict &addresses, int64_t B, int64_t k, int64_t k_aux, int64_t d, int64_t n, bool relu,
                     int threads) {
    const Kernels &chosen = kernels();
    const SparseBackward p = backward_params(addresses, B, k, k_aux, d, n, relu, threads);
    py::gil_scoped_release unlocked;
    check(p);
    chosen.sparse_backward(p);
}

void adam_unit_norm_step(const py::dict &addresses, const py::dict &rows, int64_t B, int64_t k, int64_t k_aux,
                         int64_t d, int64_t n, bool relu, int threads, int64_t step, double lr, double beta1,
                         double beta2, double eps, bool project, bool unit_norm) {
    const Kernels &chosen = kernels();
    const AdamStep p = adam_params(backward_params(addresses, B, k, k_aux, d, n, relu, threads), rows, step, lr, beta1,
                                   beta2, eps, project, unit_norm);
    py::gil_scoped_release unlocked;
    check(p.gradients);
    chosen.adam_unit_norm_step(p);
}

void top_activations_update(Address top_values, Address top_image_ids, Address sums, Address counts, Address values,
                            Address indices, Address image_ids, Address offsets, Address rows, Address slots, int64_t B,
                            int64_t n, int64_t m, int64_t k, int threads) {
    const Kernels &chosen = kernels();
    py::gil_scoped_release unlocked;
    check_latents(at<int64_t>(indices), B * k, n);
    check_inverse(at<int64_t>(indices), B, k, n, at<int64_t>(offsets), at<int64_t>(rows), at<int64_t>(slots));
    chosen.top_activations_update({at<float>(top_values), at<int64_t>(top_image_ids), at<double>(sums),
                                   at<int64_t>(counts), at<float>(values), at<int64_t>(image_ids), at<int64_t>(offsets),
                                   at<int64_t>(rows), at<int64_t>(slots), n, m, k, threads});
}

// Which file could not be read and why: errno, or -1 where it ended too early; (-1, 0) when all went well.
py::tuple read_store_rows(const std::vector<std::string> &paths, Address bases, Address starts, Address rows,
                          Address places, Address out, int64_t count, int64_t row_bytes) {
    ReadFailure failure;
    {
        py::gil_scoped_release unlocked;
        failure = read_rows({at<int64_t>(bases), at<int64_t>(starts), at<int64_t>(rows), at<int64_t>(places),
                             at<char>(out), count, row_bytes},
                            paths);
    }
    return py::make_tuple(failure.shard, failure.error);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "CPU kernels of revelio_fast; called through revelio_fast/ops/cpu.";
    module.def("isa", [] { return std::string(kernels().isa); });
    module.def("passed_over", [] { return passed_over(); });
    module.def("screens", [] {
        py::list names;
        names.append("few");
        if (kernels().topk_screen_int8) names.append("int8");
        if (kernels().topk_screen_bf16) names.append("bf16");
        return names;
    });
    module.def("limit_names", &limit_names);
    module.def("limit", [](const std::string &name, double seconds, int threads, uint32_t seed, int64_t bytes) {
        py::gil_scoped_release unlocked;
        const Limit found = limit(name, seconds, threads, seed, bytes);
        return std::make_pair(found.rate, found.checksum);
    });
    module.def("topk_encode", &topk_encode);
    module.def("sparse_decode", &sparse_decode);
    module.def("sparse_residual", &sparse_residual);
    module.def("invert_code", &invert);
    module.def("sparse_backward", &sparse_backward);
    module.def("adam_unit_norm_step", &adam_unit_norm_step);
    module.def("top_activations_update", &top_activations_update);
    module.def("read_rows", &read_store_rows);
}

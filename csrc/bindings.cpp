// Python bindings of the CPU kernels. Each takes the fields of its params struct as keywords (python_fields.h); what
// would make a kernel read or write outside its arrays is refused here, before anything is changed.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "python_fields.h"
#include "store/read_rows.h"

namespace py = pybind11;
using namespace revelio;

namespace {

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
template <typename Params>
void check_inverse(const Params &p) {
    const auto refuse = [] {
        throw py::value_error("inverse does not belong to this code: pass invert_code(code, n) of the same batch");
    };
    check_latents(p.indices, p.B * p.k, p.n);
    if (p.offsets[0] != 0 || p.offsets[p.n] != p.B * p.k) refuse();
    for (int64_t j = 0; j < p.n; ++j) {
        if (p.offsets[j + 1] < p.offsets[j] || p.offsets[j + 1] > p.B * p.k) refuse();
        for (int64_t e = p.offsets[j], last = -1; e < p.offsets[j + 1]; ++e) {
            if (p.rows[e] < 0 || p.rows[e] >= p.B || p.slots[e] < 0 || p.slots[e] >= p.k) refuse();
            const int64_t at = p.rows[e] * p.k + p.slots[e];
            if (at <= last || p.indices[at] != j) refuse();
            last = at;
        }
    }
}

// screen: "few", "int8", "bf16" or "". Returns how many scores it left to float32, and how many rows it gave up on; 0
// and 0 without a screen, which is also what a processor without such dot products gives.
py::tuple topk_encode(const std::string &screen, const py::kwargs &keywords) {
    const Kernels &chosen = kernels();
    TopkEncode p = {};
    fill("topk_encode", keywords, p);
    ScreenCounts counts = {0, 0};
    {
        py::gil_scoped_release unlocked;
        if (screen == "few") {
            counts = p.bf16 && chosen.topk_few_bf16 ? chosen.topk_few_bf16(p) : chosen.topk_few(p);
        } else if (screen == "int8" && chosen.topk_screen_int8) {
            counts = chosen.topk_screen_int8(p, chosen.topk_screen_bf16);
        } else if (screen == "bf16" && chosen.topk_screen_bf16) {
            counts = chosen.topk_screen_bf16(p);
        } else if (p.bf16 && chosen.topk_encode_bf16) {
            chosen.topk_encode_bf16(p);
        } else {
            chosen.topk_encode(p);
        }
    }
    return py::make_tuple(counts.rescored, counts.fallback_rows);
}

void sparse_decode(const py::kwargs &keywords) {
    const Kernels &chosen = kernels();
    SparseDecode p = {};
    fill("sparse_decode", keywords, p);
    py::gil_scoped_release unlocked;
    check_latents(p.indices, p.B * p.k, p.n);
    chosen.sparse_decode(p);
}

void invert(const py::kwargs &keywords) {
    InvertCode p = {};
    fill("invert_code", keywords, p);
    py::gil_scoped_release unlocked;
    check_latents(p.indices, p.B * p.k, p.n);
    invert_code(p);
}

void sparse_backward(const py::kwargs &keywords) {
    const Kernels &chosen = kernels();
    SparseBackward p = {};
    fill("sparse_backward", keywords, p);
    py::gil_scoped_release unlocked;
    check_inverse(p);
    chosen.sparse_backward(p);
}

void adam_unit_norm_step(const py::kwargs &keywords) {
    const Kernels &chosen = kernels();
    AdamStep p = {};
    fill("adam_unit_norm_step", keywords, p);
    py::gil_scoped_release unlocked;
    check_inverse(p.gradients);
    chosen.adam_unit_norm_step(p);
}

void top_activations_update(const py::kwargs &keywords) {
    const Kernels &chosen = kernels();
    TopActivationsUpdate p = {};
    fill("top_activations_update", keywords, p);
    py::gil_scoped_release unlocked;
    check_inverse(p);
    chosen.top_activations_update(p);
}

// Which file could not be read and why: errno, or -1 where it ended too early; (-1, 0) when all went well.
py::tuple read_store_rows(const std::vector<std::string> &paths, const py::kwargs &keywords) {
    ReadRows p = {};
    fill("read_rows", keywords, p);
    ReadFailure failure;
    {
        py::gil_scoped_release unlocked;
        failure = read_rows(p, paths);
    }
    return py::make_tuple(failure.shard, failure.error);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
    module.doc() = "CPU kernels of revelio_fast; called through revelio_fast/ops/<op>/cpu.py.";
    module.def("isa", [] { return std::string(kernels().isa); });
    module.def("passed_over", [] { return passed_over(); });
    module.def("screens", [] {
        py::list names;
        names.append("few");
        if (kernels().topk_screen_int8) names.append("int8");
        if (kernels().topk_screen_bf16) names.append("bf16");
        return names;
    });
    module.def("topk_encode", &topk_encode);
    module.def("sparse_decode", &sparse_decode);
    module.def("invert_code", &invert);
    module.def("sparse_backward", &sparse_backward);
    module.def("adam_unit_norm_step", &adam_unit_norm_step);
    module.def("top_activations_update", &top_activations_update);
    module.def("read_rows", &read_store_rows);
}

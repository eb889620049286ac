// Python bindings of the machine's limits, a module of their own: bench/ loads it, revelio_fast does not.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>

#include "bench/limits.h"

namespace py = pybind11;

PYBIND11_MODULE(_limits, module) {
    module.doc() = "What this machine can do at most; called through bench/limits.py.";
    module.def("limit_names", &revelio::limit_names);
    module.def("limit", [](const std::string &name, double seconds, int threads, uint32_t seed, int64_t bytes) {
        py::gil_scoped_release unlocked;
        const revelio::Limit found = revelio::limit(name, seconds, threads, seed, bytes);
        return std::make_pair(found.rate, found.checksum);
    });
}

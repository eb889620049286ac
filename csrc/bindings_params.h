// The kernels' params structs from what Python passes: addresses of first elements by name. Shared by both bindings.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "cpu/kernels.h"

namespace revelio {

using Address = std::uintptr_t;

template <typename T>
T *at(Address address) {
    return reinterpret_cast<T *>(address);
}

// The address of that name; a missing one is null.
template <typename T>
T *find(const pybind11::dict &by_name, const char *name) {
    return by_name.contains(name) ? at<T>(by_name[name].template cast<Address>()) : nullptr;
}

inline SparseBackward backward_params(const pybind11::dict &by_name, int64_t B, int64_t k, int64_t k_aux, int64_t d,
                                      int64_t n, bool relu, int threads) {
    return {find<float>(by_name, "x"),
            find<float>(by_name, "values"),
            find<float>(by_name, "grad"),
            find<float>(by_name, "grad_aux"),
            find<float>(by_name, "W_enc"),
            find<float>(by_name, "W_dec"),
            find<float>(by_name, "b_pre"),
            find<int64_t>(by_name, "indices"),
            find<int64_t>(by_name, "offsets"),
            find<int64_t>(by_name, "rows"),
            find<int64_t>(by_name, "slots"),
            find<float>(by_name, "dpre_given"),
            find<float>(by_name, "dW_dec"),
            find<float>(by_name, "dW_enc"),
            find<float>(by_name, "db_enc"),
            find<float>(by_name, "db_pre"),
            find<float>(by_name, "dvalues"),
            find<float>(by_name, "dx"),
            B,
            k,
            k_aux,
            d,
            n,
            relu,
            threads};
}

inline AdamStep adam_params(const SparseBackward &gradients, const pybind11::dict &rows, int64_t step, double lr,
                            double beta1, double beta2, double eps, bool project, bool unit_norm) {
    return {gradients,
            find<float>(rows, "W_enc"),
            find<float>(rows, "W_dec"),
            find<float>(rows, "b_enc"),
            find<float>(rows, "b_pre"),
            find<float>(rows, "m_enc"),
            find<float>(rows, "v_enc"),
            find<float>(rows, "m_dec"),
            find<float>(rows, "v_dec"),
            find<float>(rows, "m_b_enc"),
            find<float>(rows, "v_b_enc"),
            find<float>(rows, "m_b_pre"),
            find<float>(rows, "v_b_pre"),
            step,
            lr,
            beta1,
            beta2,
            eps,
            project,
            unit_norm,
            find<float>(rows, "scalars"),
            find<uint8_t>(rows, "settled")};
}

}  // namespace revelio

// The kernels of one instruction set, chosen once: the best the processor has, or what REVELIO_ISA asks for.
#pragma once

#include <string>

#include "cpu/kernels.h"

namespace revelio {

struct Kernels {
    const char *isa;
    void (*topk_encode)(const TopkEncode &);
    Screener topk_few;
    void (*sparse_decode)(const SparseDecode &);
    void (*sparse_backward)(const SparseBackward &);
    void (*adam_unit_norm_step)(const AdamStep &);
    void (*top_activations_update)(const TopActivationsUpdate &);
    // null where the processor or the compiler has no such dot products
    void (*topk_encode_bf16)(const TopkEncode &);
    Screener topk_few_bf16;
    ScreenCounts (*topk_screen_int8)(const TopkEncode &, Screener next);
    Screener topk_screen_bf16;
};

// Throws std::runtime_error when REVELIO_ISA names an unknown instruction set or one this processor lacks.
const Kernels &kernels();

// Why the best instruction set that this processor has is not used; empty where it is, or where REVELIO_ISA chose.
const std::string &passed_over();

}  // namespace revelio

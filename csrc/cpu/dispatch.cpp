// Chooses the instruction set by cpuid, or by the environment variable REVELIO_ISA.
#include "cpu/dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace revelio {
namespace {

#define REVELIO_TABLE(isa)                                                                          \
    Kernels {                                                                                       \
        #isa, isa::topk_encode, isa::sparse_decode, isa::sparse_backward, isa::adam_unit_norm_step, \
            isa::top_activations_update, nullptr, nullptr, nullptr                                  \
    }

bool supported(const std::string &isa) {
    if (isa == "baseline") return true;
#if defined(__x86_64__) || defined(_M_X64)
    // The compiler's run-time check covers the operating system's part (saved registers) too.
    if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == "avx512") {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    }
#ifdef REVELIO_AVX512BF16
    if (isa == "avx512bf16") return supported("avx512") && __builtin_cpu_supports("avx512bf16");
#endif
#endif
    return false;
}

#if defined(__x86_64__) || defined(_M_X64)
Kernels avx512_kernels() {
    Kernels kernels = REVELIO_TABLE(avx512);
    if (__builtin_cpu_supports("avx512vnni")) kernels.topk_screen_int8 = avx512::topk_screen_int8;
    return kernels;
}

Kernels avx512bf16_kernels() {
    Kernels kernels = avx512_kernels();
    kernels.isa = "avx512bf16";
#ifdef REVELIO_AVX512BF16
    kernels.topk_encode_bf16 = avx512::topk_encode_bf16;
    kernels.topk_screen_bf16 = avx512::topk_screen_bf16;
#endif
    return kernels;
}
#endif

Kernels choose() {
#if defined(__x86_64__) || defined(_M_X64)
    const Kernels all[] = {avx512bf16_kernels(), avx512_kernels(), REVELIO_TABLE(avx2), REVELIO_TABLE(baseline)};
#else
    const Kernels all[] = {REVELIO_TABLE(baseline)};
#endif
    const char *asked = std::getenv("REVELIO_ISA");
    const std::string wanted = asked ? asked : "";
    for (const Kernels &candidate : all) {
        if (wanted.empty() ? supported(candidate.isa) : wanted == candidate.isa) {
            if (supported(candidate.isa)) return candidate;
            throw std::runtime_error("REVELIO_ISA=" + wanted + ": this processor does not have it");
        }
    }
    throw std::runtime_error("REVELIO_ISA must be baseline, avx2, avx512 or avx512bf16, got " + wanted);
}

}  // namespace

const Kernels &kernels() {
    static const Kernels chosen = choose();
    return chosen;
}

}  // namespace revelio

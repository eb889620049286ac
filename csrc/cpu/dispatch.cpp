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
            isa::top_activations_update, nullptr                                                    \
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
#endif
    return false;
}

Kernels with_screen(Kernels chosen) {
#if defined(__x86_64__) || defined(_M_X64)
    if (std::string(chosen.isa) == "avx512" && __builtin_cpu_supports("avx512vnni")) {
        chosen.topk_screen = avx512::topk_screen;
    }
#endif
    return chosen;
}

Kernels choose() {
#if defined(__x86_64__) || defined(_M_X64)
    const Kernels all[] = {REVELIO_TABLE(avx512), REVELIO_TABLE(avx2), REVELIO_TABLE(baseline)};
#else
    const Kernels all[] = {REVELIO_TABLE(baseline)};
#endif
    const char *asked = std::getenv("REVELIO_ISA");
    const std::string wanted = asked ? asked : "";
    for (const Kernels &candidate : all) {
        if (wanted.empty() ? supported(candidate.isa) : wanted == candidate.isa) {
            if (supported(candidate.isa)) return with_screen(candidate);
            throw std::runtime_error("REVELIO_ISA=" + wanted + ": this processor does not have it");
        }
    }
    throw std::runtime_error("REVELIO_ISA must be baseline, avx2 or avx512, got " + wanted);
}

}  // namespace

const Kernels &kernels() {
    static const Kernels chosen = choose();
    return chosen;
}

}  // namespace revelio

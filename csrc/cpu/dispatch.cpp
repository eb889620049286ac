// Chooses the instruction set by cpuid, or by the environment variable REVELIO_ISA.
#include "cpu/dispatch.h"

#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "cpu/amx_access.h"

namespace revelio {
namespace {

#define REVELIO_TABLE(isa)                                                                                         \
    Kernels {                                                                                                      \
        #isa, isa::topk_encode, isa::topk_few, isa::sparse_decode, isa::sparse_backward, isa::adam_unit_norm_step, \
            isa::top_activations_update, nullptr, nullptr, nullptr, nullptr                                        \
    }

// Why this machine cannot run it; empty when it can. asked: by name.
std::string refusal(const std::string &isa, bool asked) {
    bool has = isa == "baseline";
#if defined(__x86_64__) || defined(_M_X64)
    // The compiler's run-time check covers the operating system's part (saved registers) too.
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    if (isa == "avx2") has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == "avx512") has = avx512;
#ifdef REVELIO_AVX512BF16
    if (isa == "avx512bf16") has = avx512 && __builtin_cpu_supports("avx512bf16");
#endif
#ifdef REVELIO_AMX
    if (isa == "amx" && avx512) {
        const std::string reason = amx_refusal(asked);
        const char *wrong = reason.empty() ? amx::wrong_sums() : nullptr;
        return wrong ? std::string("its ") + wrong + " sums of known products came out wrong on this machine" : reason;
    }
#endif
#endif
    return has ? "" : "this processor does not have it";
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
    kernels.topk_few_bf16 = avx512::topk_few_bf16;
    kernels.topk_screen_bf16 = avx512::topk_screen_bf16;
#endif
    return kernels;
}

Kernels amx_kernels() {
    Kernels kernels = avx512_kernels();
    kernels.isa = "amx";
#ifdef REVELIO_AMX
    kernels.topk_encode_bf16 = amx::topk_encode_bf16;
    kernels.topk_few_bf16 = amx::topk_few_bf16;
    kernels.topk_screen_int8 = amx::topk_screen_int8;
    kernels.topk_screen_bf16 = amx::topk_screen_bf16;
#endif
    return kernels;
}
#endif

struct Choice {
    Kernels kernels;
    std::string passed_over;
};

Choice choose() {
#if defined(__x86_64__) || defined(_M_X64)
    const Kernels all[] = {amx_kernels(), avx512bf16_kernels(), avx512_kernels(), REVELIO_TABLE(avx2),
                           REVELIO_TABLE(baseline)};
#else
    const Kernels all[] = {REVELIO_TABLE(baseline)};
#endif
    const char *asked = std::getenv("REVELIO_ISA");
    const std::string wanted = asked ? asked : "";
    std::string passed_over;
    for (const Kernels &candidate : all) {
        if (!wanted.empty() && wanted != candidate.isa) continue;
        const std::string reason = refusal(candidate.isa, !wanted.empty());
        if (reason.empty()) return {candidate, passed_over};
        if (!wanted.empty()) throw std::runtime_error("REVELIO_ISA=" + wanted + ": " + reason);
#ifdef REVELIO_AMX
        if (candidate.isa == std::string("amx") && processor_has_amx()) passed_over = "AMX is not used: " + reason;
#endif
    }
    throw std::runtime_error("REVELIO_ISA must be baseline, avx2, avx512, avx512bf16 or amx, got " + wanted);
}

const Choice &choice() {
    static const Choice chosen = choose();
    return chosen;
}

}  // namespace

const Kernels &kernels() {
    return choice().kernels;
}

void out_of_memory() {
    throw std::bad_alloc();
}

const std::string &passed_over() {
    return choice().passed_over;
}

}  // namespace revelio

// Dense float rows for the kernels of one instruction set. No STL here: a template instantiated with AVX-512 could be
// the copy that the linker keeps for everyone.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace revelio {
namespace REVELIO_ISA {

// y += a x
static inline void axpy(float *__restrict y, float a, const float *__restrict x, int64_t d) {
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) y[i] += a * x[i];
}

static inline float dot(const float *__restrict a, const float *__restrict b, int64_t d) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < d; ++i) sum += a[i] * b[i];
    return sum;
}

static inline void zero(float *y, int64_t d) {
    memset(y, 0, sizeof(float) * d);
}

static inline void prefetch_row(const float *row, int64_t d) {
    for (int64_t i = 0; i < d; i += 16) __builtin_prefetch(row + i);
}

// Scratch of one thread or call; a failed allocation ends the process with a message, as nothing sensible can go on.
template <typename T>
static T *scratch(int64_t count) {
    const size_t bytes = ((count ? count : 1) * sizeof(T) + 63) / 64 * 64;
    void *memory = aligned_alloc(64, bytes);
    if (!memory) abort();
    return static_cast<T *>(memory);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

// Dense float rows for the kernels of one instruction set. No STL here: a template instantiated with AVX-512 could be
// the copy that the linker keeps for everyone.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace revelio {
namespace REVELIO_ISA {

// As wide as the registers of the instruction set.
#if defined(__AVX512F__)
typedef float Vector __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef float Vector __attribute__((vector_size(32)));
#else
typedef float Vector __attribute__((vector_size(16)));
#endif
constexpr int LANES = sizeof(Vector) / sizeof(float);

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

// Memory of one call, taken outside parallel regions, where std::bad_alloc can still become a MemoryError.
// Of internal linkage, so that no copy compiled for one instruction set can serve another.
namespace {
template <typename T>
struct Scratch {
    static constexpr size_t HUGE_PAGE = size_t(1) << 21;
    T *data;
    explicit Scratch(int64_t count) {
        // In 2 MiB pages where it fills some: a panel's rows lie on as many 4 KiB pages as a TLB has entries.
        const size_t bytes = (count ? count : 1) * sizeof(T), alignment = bytes < HUGE_PAGE ? 64 : HUGE_PAGE;
        const size_t size = (bytes + alignment - 1) / alignment * alignment;
        data = static_cast<T *>(aligned_alloc(alignment, size));
        if (!data) throw std::bad_alloc();
#ifdef __linux__
        if (alignment == HUGE_PAGE) madvise(data, size, MADV_HUGEPAGE);
#endif
    }
    ~Scratch() { free(data); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
};
}  // namespace

static inline int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

}  // namespace REVELIO_ISA
}  // namespace revelio

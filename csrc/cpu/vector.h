// Dense float rows for the kernels of one instruction set. No STL here: a template instantiated with AVX-512 could be
// the copy that the linker keeps for everyone.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

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

// The first `lanes` floats of a vector, zeros after them; whole vectors where `lanes` is the constant LANES.
static inline Vector load(const float *p, int64_t lanes = LANES) {
    Vector v = {};
    memcpy(&v, p, sizeof(float) * lanes);
    return v;
}

static inline void store(float *p, Vector v, int64_t lanes = LANES) {
    memcpy(p, &v, sizeof(float) * lanes);
}

static inline Vector root(Vector v) {
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(v);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(v);
#elif defined(__SSE2__)
    return _mm_sqrt_ps(v);
#else
    for (int l = 0; l < LANES; ++l) v[l] = __builtin_sqrtf(v[l]);
    return v;
#endif
}

static inline float sum_of_lanes(Vector v) {
    float sum = 0;
    for (int l = 0; l < LANES; ++l) sum += v[l];
    return sum;
}

#define REVELIO_INLINE __attribute__((always_inline))

// step(first, lanes) for the vectors of a row of d floats: whole ones, and the rest. Steps are REVELIO_INLINE lambdas.
template <typename Step>
static inline void by_vectors(int64_t d, Step step) {
    int64_t i = 0;
    for (; i + LANES <= d; i += LANES) step(i, LANES);
    if (i < d) step(i, d - i);
}

static inline float dot(const float *a, const float *b, int64_t d) {
    Vector sums[4] = {};  // so that one addition need not wait for another
    int64_t i = 0;
    for (; i + 4 * LANES <= d; i += 4 * LANES) {
        for (int s = 0; s < 4; ++s) sums[s] += load(a + i + s * LANES) * load(b + i + s * LANES);
    }
    Vector rest = {};
    by_vectors(d - i, [&](int64_t l, int64_t lanes)
                          REVELIO_INLINE { rest += load(a + i + l, lanes) * load(b + i + l, lanes); });
    return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]) + rest);
}

static inline void zero(float *y, int64_t d) {
    memset(y, 0, sizeof(float) * d);
}

static inline void prefetch_row(const float *row, int64_t d) {
    for (int64_t i = 0; i < d; i += 16) __builtin_prefetch(row + i);
}

// Fetches into L2 what is used a row or more later: L1 keeps few misses in flight, and has no room for it.
static inline void prefetch_for_later(const float *p) {
    __builtin_prefetch(p, 0, 2);
}

// The cache line of p, where a line begins at element i of a row.
static inline void prefetch_line(const float *p, int64_t i) {
    if (i % 16 == 0) prefetch_for_later(p + i);
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
        if (!data) out_of_memory();
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

// Int8 for the screen of topk_encode(precision="fast"): stochastic rounding, and a bound that fails with a proven small
// probability (docs/screens.md).
#pragma once

#include <immintrin.h>

#include "cpu/topk_encode/narrow.h"

namespace revelio {
namespace REVELIO_ISA {

struct Int8 {
    typedef uint32_t Step;  // four channels: W_enc's in excess 128, x's in two's complement
    typedef __m512i Sum;
    static constexpr int64_t TILES_PER_BLOCK = 16;  // rows of x that stay in L2 while a group of panels streams by
    static constexpr bool INTEGERS = true;
    static constexpr int64_t PANELS_PER_GROUP = 128;    // shared by the threads: 4096 x d bytes
    static constexpr float DEVIATIONS = 8;              // a latent's bounds fail with probability below 2e-14
    static constexpr float LEAST = 1e-8f, MOST = 1e8f;  // largest elements within these keep bounds inside float32
    static constexpr float ROUNDINGS = 1.01f;           // of float32, in units of (d + 16) 2^-24 |x| |w|
    static constexpr float UNDERFLOW = 1e-36f;

    static int64_t steps(int64_t d) { return (d + 3) / 4; }
    static Sum add(Sum sum, uint32_t x, __m512i w) {
        return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(static_cast<int32_t>(x)));
    }
    static Sum start(int32_t value) { return _mm512_set1_epi32(value); }
    static __m512 score(Sum sum, float row_error, __m512 errors, __m512 bias) {  // errors are scales here
        return _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(row_error)), errors, bias);
    }
    // 8 sub-Gaussian deviations of both factors' stochastic rounding.
    static inline float combined(float from_x, float from_w) {
        return 0.5f * DEVIATIONS * __builtin_sqrtf(from_x * from_x + from_w * from_w);
    }

    static inline uint32_t mixed(uint32_t h) {
        h ^= h >> 16;
        h *= 0x85EBCA6Bu;
        h ^= h >> 13;
        h *= 0xC2B2AE35u;
        return h ^ h >> 16;
    }

    // Rounds v / scale up or down at random, without bias; the error is measured by the scale.
    static Narrowed narrow(const float *v, int64_t d, uint32_t seed, uint32_t *line) {
        int8_t *codes = reinterpret_cast<int8_t *>(line);
        float largest = 0, squares = 0;
#pragma omp simd reduction(max : largest) reduction(+ : squares)
        for (int64_t i = 0; i < d; ++i) {
            largest = fabsf(v[i]) > largest ? fabsf(v[i]) : largest;
            squares += v[i] * v[i];
        }
        const bool fits = squares < __builtin_inff() && (largest == 0 || (largest >= LEAST && largest <= MOST));
        memset(codes, 0, steps(d) * 4);
        if (!fits) return {0, __builtin_inff(), __builtin_inff()};
        if (largest == 0) return {0, 0, 0};
        const float inverse = 127 / largest, scale = largest / 127, norm = 1.001f * sqrtf(squares);
        seed = mixed(seed);
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) {
            const float uniform =
                static_cast<int32_t>(mixed(static_cast<uint32_t>(i) * 0x9E3779B9u + seed) >> 8) * 0x1p-24f;
            const int32_t code = static_cast<int32_t>(v[i] * inverse + uniform + 128);
            codes[i] = static_cast<int8_t>((code > 255 ? 255 : code) - 128);
        }
        return {scale, norm, norm + scale * sqrtf(static_cast<float>(d))};
    }

    // VPDPBUSD takes latents in excess 128; the sums start with what takes that back.
    static void as_latent(uint32_t *line, int64_t steps) {
        for (int64_t s = 0; s < steps; ++s) line[s] ^= 0x80808080u;
    }
    static int32_t as_row(const uint32_t *line, int64_t steps) {
        int32_t sum = 0;
        const int8_t *codes = reinterpret_cast<const int8_t *>(line);
        for (int64_t i = 0; i < steps * 4; ++i) sum += codes[i];
        return -128 * sum;
    }
};

}  // namespace REVELIO_ISA
}  // namespace revelio

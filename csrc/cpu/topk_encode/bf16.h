// Bfloat16 by VDPBF16PS: for the scores of topk_encode(precision="bf16"), and for the certified screen of "fp32"
// (docs/screens.md). The instruction adds two products, one after the other, each sum rounded once to nearest; it takes
// denormal inputs and makes denormal results zero, whatever the thread's settings.
#pragma once

#include <immintrin.h>

#include "cpu/topk_encode/narrow.h"

namespace revelio {
namespace REVELIO_ISA {

struct Bf16 {
    typedef uint32_t Step;  // two channels
    typedef __m512 Sum;
    static constexpr int64_t TILES_PER_BLOCK = 16;  // rows of x that stay in L2 while a group of panels streams by
    static constexpr bool INTEGERS = false;
    static constexpr int64_t PANELS_PER_GROUP = 64;  // shared by the threads: 2048 x d x 2 bytes
    static constexpr float MOST = 1e18f;             // norms below it keep sums inside float32
    // Of float32, in units of (d + 16) 2^-24 |x| |w|: one sum whose steps round to nearest, one with twice that error.
    static constexpr float ROUNDINGS = 3.03f;
    static constexpr float UNDERFLOW = 1e-32f;  // above 2 (d + 16) 2^-126

    static int64_t steps(int64_t d) { return (d + 1) / 2; }
    static Sum add(Sum sum, uint32_t x, __m512 w) {
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(static_cast<int32_t>(x)), (__m512bh)w);
    }
    static Sum start(int32_t) { return _mm512_setzero_ps(); }
    static __m512 score(Sum sum, float, __m512, __m512 bias) { return _mm512_add_ps(sum, bias); }
    // Both residuals at their worst.
    static inline float combined(float from_x, float from_w) { return from_x + from_w; }
    static int32_t as_row(const uint32_t *, int64_t) { return 0; }
    static void as_latent(uint32_t *, int64_t) {}

    static __mmask16 lanes(int64_t left) {
        return left < 16 ? static_cast<__mmask16>((1u << left) - 1) : static_cast<__mmask16>(0xFFFF);
    }

    // To nearest, even among equals; denormals to zero.
    static const uint32_t *line(const float *row, int64_t d, uint32_t *out) {
        uint16_t *halves = reinterpret_cast<uint16_t *>(out);
        int64_t i = 0;
        for (; i + 16 <= d; i += 16) {
            _mm256_storeu_si256((__m256i *)(halves + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(row + i)));
        }
        const __m512 rest = _mm512_maskz_loadu_ps(lanes(d - i), row + i);
        _mm256_mask_storeu_epi16(halves + i, lanes(2 * steps(d) - i), (__m256i)_mm512_cvtneps_pbh(rest));
        return out;
    }

    // The error is the norm of what rounding took away. Squares of float32 neither overflow nor vanish in double.
    static Narrowed narrow(const float *v, int64_t d, uint32_t, uint32_t *out) {
        line(v, d, out);
        const uint16_t *halves = reinterpret_cast<const uint16_t *>(out);
        __m512d squares = _mm512_setzero_pd(), errors = _mm512_setzero_pd();
        const auto add_squares = [](__m512d sum, __m256 part) {
            const __m512d wide = _mm512_cvtps_pd(part);
            return _mm512_fmadd_pd(wide, wide, sum);
        };
        for (int64_t i = 0; i < d; i += 16) {
            const __m512 exact = _mm512_maskz_loadu_ps(lanes(d - i), v + i);
            const __m512i bits =
                _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes(d - i), halves + i)), 16);
            const __m512 error = _mm512_sub_ps(exact, _mm512_castsi512_ps(bits));
            squares = add_squares(squares, _mm512_castps512_ps256(exact));
            squares = add_squares(squares, _mm512_extractf32x8_ps(exact, 1));
            errors = add_squares(errors, _mm512_castps512_ps256(error));
            errors = add_squares(errors, _mm512_extractf32x8_ps(error, 1));
        }
        // The factor covers the roundings here and in the bound; the sum, elements that vanished in denormals.
        const auto norm_of = [](__m512d sum) {
            return static_cast<float>(1.000002 * sqrt(_mm512_reduce_add_pd(sum))) + 0x1p-116f;
        };
        const float norm = norm_of(squares), error = norm_of(errors);
        if (!(norm < MOST)) return {__builtin_inff(), __builtin_inff(), __builtin_inff()};
        return {error, norm, norm + error};
    }
};

}  // namespace REVELIO_ISA
}  // namespace revelio

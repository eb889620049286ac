// Products of a few rows with rows of W_enc as they lie, summed in any order, and the norms of the latter.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace revelio {
namespace REVELIO_ISA {

constexpr int DOT_LATENTS = 4;
constexpr int DOT_ROWS = LANES == 16 ? 4 : 2;  // their sums, those of the norms, W_enc and x: 25 of 32 registers, or 17
constexpr int DOT_BLOCK = 32;                  // latents compared with the thresholds at once

// How a row of W_enc is multiplied: in groups of CHANNELS floats, with a row of x made of Channels.
struct Float32Dots {
    typedef float Channel;
    typedef Vector Group;
    static constexpr int CHANNELS = LANES;
    // Rounding of the tile's sums and of these, in units of 2^-24 |x| |w| a step; the norm of w as multiplied is at
    // most NORM times the one measured.
    static constexpr float TILE_STEP = 1.01f, DOT_STEP = 1.01f, NORM = 1.001f;

    static double value(Channel x) { return x; }
    static Vector load(const float *w) { return REVELIO_ISA::load(w); }
    static Vector add(Vector sum, const float *x, Vector w) { return sum + *reinterpret_cast<const Vector *>(x) * w; }
    static Vector add_squares(Vector sum, Vector w) { return sum + w * w; }
    static Vector narrow(Vector w) { return w; }
};

// W_enc rounded to bfloat16. What becomes of a NaN does not matter: its norm, taken from before, is one.
struct RoundedFloat32Dots : Float32Dots {
    static constexpr float NORM = 1.006f;
    static Vector narrow(Vector w) {
        typedef uint32_t Bits __attribute__((vector_size(sizeof(Vector))));
        const Bits bits = reinterpret_cast<Bits &>(w);
        Bits rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) & 0xFFFF0000u;
        return reinterpret_cast<Vector &>(rounded);
    }
};

#ifdef __AVX512BF16__
// The same by VDPBF16PS, which rounds both sums of a step.
struct Bf16Dots : Float32Dots {
    typedef uint16_t Channel;
    typedef __m512bh Group;
    struct Pair {
        __m512 low, high;
    };
    static constexpr int CHANNELS = 32;
    static constexpr float TILE_STEP = 2.02f, DOT_STEP = 2.02f, NORM = 1.006f;

    static double value(Channel x) {
        const uint32_t bits = static_cast<uint32_t>(x) << 16;
        float value;
        memcpy(&value, &bits, 4);
        return value;
    }
    static Pair load(const float *w) { return {_mm512_loadu_ps(w), _mm512_loadu_ps(w + 16)}; }
    static Group narrow(const Pair &w) { return _mm512_cvtne2ps_pbh(w.high, w.low); }
    static Vector add(Vector sum, const Channel *x, Group w) {
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_load_si512(x), w);
    }
    static Vector add_squares(Vector sum, const Pair &w) { return sum + w.low * w.low + w.high * w.high; }
};
#endif

// out[i] = the sum of the lanes of v[i], for 4 vectors. Neighbours are added first: a tree.
static inline void sum_lanes(const Vector *v, float *out) {
#if defined(__SSE2__)
#if defined(__AVX512F__)
    const auto pairs = [](__m512 a, __m512 b) { return _mm512_shuffle_ps(a, b, 0x88) + _mm512_shuffle_ps(a, b, 0xDD); };
    const __m512 quads = pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
    const __m256 halves = _mm512_castps512_ps256(quads) + _mm512_extractf32x8_ps(quads, 1);
    const __m128 sums = _mm256_castps256_ps128(halves) + _mm256_extractf128_ps(halves, 1);
#elif defined(__AVX2__)
    const auto pairs = [](__m256 a, __m256 b) { return _mm256_shuffle_ps(a, b, 0x88) + _mm256_shuffle_ps(a, b, 0xDD); };
    const __m256 quads = pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
    const __m128 sums = _mm256_castps256_ps128(quads) + _mm256_extractf128_ps(quads, 1);
#else
    const auto pairs = [](__m128 a, __m128 b) { return _mm_shuffle_ps(a, b, 0x88) + _mm_shuffle_ps(a, b, 0xDD); };
    const __m128 sums = pairs(pairs(v[0], v[1]), pairs(v[2], v[3]));
#endif
    memcpy(out, &sums, sizeof sums);
#else
    for (int i = 0; i < 4; ++i) out[i] = (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
#endif
}

// scores[r * DOT_BLOCK + l] = <x_r, w_l>; squares[l] = |w_l|^2 where NORMS. Rows of x are aligned and padded with zeros
// to whole groups. Not inlined: on its own it keeps all sums in registers.
template <typename Dots, int ROWS, bool NORMS>
__attribute__((noinline)) static void dot_rows(const typename Dots::Channel *x, int64_t padded, const float *const *w,
                                               int64_t d, float *scores, float *squares) {
    Vector sums[ROWS][DOT_LATENTS] = {}, norms[DOT_LATENTS] = {};
    const auto step = [&](const float *const *at, int64_t offset, int64_t channel) __attribute__((always_inline)) {
        typename Dots::Group groups[DOT_LATENTS];
#pragma GCC unroll 4
        for (int l = 0; l < DOT_LATENTS; ++l) {
            const auto loaded = Dots::load(at[l] + offset);
            if (NORMS) norms[l] = Dots::add_squares(norms[l], loaded);
            groups[l] = Dots::narrow(loaded);
        }
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
            for (int l = 0; l < DOT_LATENTS; ++l) {
                sums[r][l] = Dots::add(sums[r][l], x + r * padded + channel, groups[l]);
            }
        }
    };
    const float *lines[DOT_LATENTS];
    for (int l = 0; l < DOT_LATENTS; ++l) lines[l] = w[l];
    int64_t i = 0;
    for (; i + Dots::CHANNELS <= d; i += Dots::CHANNELS) {
        if (NORMS) {  // first to read these latents: fetch the next ones meanwhile
#pragma GCC unroll 4
            for (int l = 0; l < DOT_LATENTS; ++l) {
                for (int c = 0; c < Dots::CHANNELS; c += 16) __builtin_prefetch(lines[l] + DOT_LATENTS * d + i + c);
            }
        }
        step(lines, i, i);
    }
    if (i < d) {
        float rest[DOT_LATENTS][Dots::CHANNELS] = {};
        const float *tails[DOT_LATENTS];
        for (int l = 0; l < DOT_LATENTS; ++l) {
            memcpy(rest[l], lines[l] + i, sizeof(float) * (d - i));
            tails[l] = rest[l];
        }
        step(tails, 0, i);
    }
    for (int r = 0; r < ROWS; ++r) sum_lanes(sums[r], scores + r * DOT_BLOCK);
    if (NORMS) sum_lanes(norms, squares);
}

template <typename Dots, bool NORMS>
static void dots(const typename Dots::Channel *x, int64_t rows, int64_t padded, const float *const *w, int64_t d,
                 float *scores, float *squares) {
    if (DOT_ROWS == 4 && rows >= 4)
        dot_rows<Dots, DOT_ROWS, NORMS>(x, padded, w, d, scores, squares);
    else if (DOT_ROWS == 4 && rows == 3)
        dot_rows<Dots, DOT_ROWS - 1, NORMS>(x, padded, w, d, scores, squares);
    else if (rows >= 2)
        dot_rows<Dots, 2, NORMS>(x, padded, w, d, scores, squares);
    else
        dot_rows<Dots, 1, NORMS>(x, padded, w, d, scores, squares);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

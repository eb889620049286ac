// Rows and latents as int8 for topk_screen: stochastic rounding, balanced channels, and bounds on what rounding did.
#pragma once

#include <cmath>

#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace revelio {
namespace REVELIO_ISA {

constexpr int TILE_ROWS = 12, TILE_LATENTS = 32;  // 24 accumulators, 2 vectors of W and 1 of x: 27 of 32 registers
constexpr int64_t SAMPLE = 512;                   // rows and latents that the balance of the channels is taken from
constexpr float LEAST = 1e-8f, MOST = 1e8f;       // largest elements within these keep all bounds inside float32

// Of a tile's rows, as arrays for vector arithmetic: scale of the int8 values, and a bound on the norm of the row
// before and after rounding, infinite for a row that int8 cannot hold.
struct RowBounds {
    alignas(64) float scale[16], norm[16];
    alignas(64) int32_t start[16];  // takes back the 128 that is added to the other factor to make it unsigned
};

// Of a latent: scale of the int8 values, norm of the row before rounding and a bound on it after, and |bias|.
struct LatentBounds {
    float scale, norm, rounded_norm, bias;
};

static inline uint32_t mixed(uint32_t h) {
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    return h ^ h >> 16;
}

// Rounds v / scale up or down at random, without bias, to codes[i] - 128. Returns the scale; norm gets at least |v|.
// A vector that int8 cannot hold (NaN, infinite, or its largest element out of range) gets an infinite norm.
static float quantise(const float *v, int64_t d, uint32_t seed, uint8_t *codes, float *norm) {
    float largest = 0, squares = 0;
#pragma omp simd reduction(max : largest) reduction(+ : squares)
    for (int64_t i = 0; i < d; ++i) {
        largest = fabsf(v[i]) > largest ? fabsf(v[i]) : largest;
        squares += v[i] * v[i];
    }
    const bool fits = squares < __builtin_inff() && (largest == 0 || (largest >= LEAST && largest <= MOST));
    *norm = fits ? 1.001f * sqrtf(squares) : __builtin_inff();
    const float inverse = fits && largest > 0 ? 127 / largest : 0.0f;
    if (inverse == 0) {
        memset(codes, 128, d);
        return 0;
    }
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) {
        const float uniform =
            static_cast<int32_t>(mixed(static_cast<uint32_t>(i) * 0x9E3779B9u + seed) >> 8) * 0x1p-24f;
        const int32_t code = static_cast<int32_t>(v[i] * inverse + uniform + 128);
        codes[i] = static_cast<uint8_t>(code > 255 ? 255 : code);
    }
    return largest / 127;
}

// Channels differ in size; one that is large in x and small in W is evened out. Powers of two, so that nothing is
// rounded.
static void balance_channels(const TopkEncode &p, float *factor) {
    const int64_t row_step = (p.B + SAMPLE - 1) / SAMPLE, latent_step = (p.n + SAMPLE - 1) / SAMPLE;
    const int64_t rows = (p.B + row_step - 1) / row_step, latents = (p.n + latent_step - 1) / latent_step;
    const Scratch<float> squares(2 * p.d);
    float *of_x = squares.data, *of_w = squares.data + p.d;
    zero(of_x, 2 * p.d);
    for (int64_t b = 0; b < p.B; b += row_step) {
        for (int64_t i = 0; i < p.d; ++i) of_x[i] += (p.x[b * p.d + i] - p.b_pre[i]) * (p.x[b * p.d + i] - p.b_pre[i]);
    }
    for (int64_t j = 0; j < p.n; j += latent_step) {
        for (int64_t i = 0; i < p.d; ++i) of_w[i] += p.W_enc[j * p.d + i] * p.W_enc[j * p.d + i];
    }
    for (int64_t i = 0; i < p.d; ++i) {
        const float ratio = (of_x[i] / rows) / (of_w[i] / latents);
        const bool usable = ratio > 1e-12f && ratio < 1e12f;
        factor[i] = usable ? exp2f(rintf(0.25f * log2f(ratio))) : 1.0f;
    }
}

static inline float finite_size(float bias) {
    const float size = fabsf(bias);
    return size < __builtin_inff() ? size : 0.0f;
}

// A quantised panel of latents: bytes [quads][TILE_LATENTS][4], bounds of each latent, and the largest of each bound.
struct Panel {
    uint8_t *bytes;
    LatentBounds *latents;
    LatentBounds *largest;
};

static void quantise_panel(const TopkEncode &p, int64_t panel, int64_t quads, const float *factor, float *v,
                           uint8_t *codes, const Panel &out) {
    *out.largest = {0, 0, 0, 0};
    for (int l = 0; l < TILE_LATENTS; ++l) {
        const int64_t j = panel * TILE_LATENTS + l;
        LatentBounds bounds = {0, 0, 0, 0};
        memset(codes, 128, quads * 4);
        if (j < p.n) {
            for (int64_t i = 0; i < p.d; ++i) v[i] = p.W_enc[j * p.d + i] * factor[i];
            bounds.scale = quantise(v, p.d, mixed(static_cast<uint32_t>(j) ^ 0x51ED270Bu), codes, &bounds.norm);
            bounds.rounded_norm = bounds.norm + bounds.scale * sqrtf(static_cast<float>(p.d));
            bounds.bias = finite_size(p.b_enc[j]);
        }
        for (int64_t q = 0; q < quads; ++q) memcpy(out.bytes + (q * TILE_LATENTS + l) * 4, codes + q * 4, 4);
        out.latents[l] = bounds;
        LatentBounds &most = *out.largest;
        if (bounds.scale > most.scale) most.scale = bounds.scale;
        if (bounds.norm > most.norm) most.norm = bounds.norm;
        if (bounds.rounded_norm > most.rounded_norm) most.rounded_norm = bounds.rounded_norm;
        if (bounds.bias > most.bias) most.bias = bounds.bias;
    }
}

static void quantise_rows(const TopkEncode &p, int64_t tile, int64_t quads, const float *factor, float *v,
                          uint8_t *codes, int32_t *packed, RowBounds &bounds) {
    bounds = {};
    for (int r = 0; r < TILE_ROWS; ++r) {
        const int64_t b = tile * TILE_ROWS + r;
        memset(codes, 128, quads * 4);
        if (b < p.B) {
            for (int64_t i = 0; i < p.d; ++i) v[i] = (p.x[b * p.d + i] - p.b_pre[i]) / factor[i];
            float norm;
            bounds.scale[r] = quantise(v, p.d, mixed(static_cast<uint32_t>(b) ^ 0xA3C59AC3u), codes, &norm);
            bounds.norm[r] = norm + bounds.scale[r] * sqrtf(static_cast<float>(p.d));
        }
        int32_t sum = 0;
        for (int64_t i = 0; i < quads * 4; ++i) {
            codes[i] ^= 128;  // from excess 128 to two's complement
            sum += static_cast<int8_t>(codes[i]);
        }
        bounds.start[r] = -128 * sum;
        for (int64_t q = 0; q < quads; ++q) memcpy(packed + q * TILE_ROWS + r, codes + q * 4, 4);
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio

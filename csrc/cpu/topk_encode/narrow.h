// Rows and latents in fewer bits, with balanced channels and bounds on what that did: what a screen multiplies.
// A Narrow is an arithmetic of topk_tile.h on AVX-512 that also says how it rounds and by how much that may move a
// score (topk_int8.h, topk_bf16.h; docs/screens.md).
#pragma once

#include <cmath>

#include "cpu/topk_encode/tile.h"

namespace revelio {
namespace REVELIO_ISA {

constexpr int64_t SAMPLE = 512;  // rows and latents that the balance of the channels is taken from

// What narrowing did to a vector: a measure of the error that its kind of bound starts from, and bounds on the norm
// before and after, all infinite for a vector that it cannot hold.
struct Narrowed {
    float error, norm, narrow_norm;
};

// Of a tile's rows, as arrays for vector arithmetic; norm is of the row before and after. No tile has more than 32.
constexpr int MOST_ROWS = 32;
struct RowBounds {
    alignas(64) float error[MOST_ROWS], norm[MOST_ROWS];
    int32_t start[MOST_ROWS];  // what the sums start from
};

struct LatentBounds {
    float error, norm, narrow_norm, bias;
};

// A narrow panel of latents: steps, bounds of each latent, and the largest of each bound.
struct Panel {
    uint32_t *steps;
    LatentBounds *latents;
    LatentBounds *largest;
};

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

// An infinite or NaN bias makes the same score in any arithmetic; one so large that adding it could overflow in one
// arithmetic and not in another bounds nothing.
static inline float size_of_bias(float bias) {
    const float size = fabsf(bias);
    if (size < 1e36f) return size;
    return size < __builtin_inff() ? __builtin_inff() : 0.0f;
}

// A loop of its own: the compiler knows here that out is nobody else's memory.
static inline void multiply(const float *__restrict a, const float *__restrict b, int64_t d, float *__restrict out) {
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) out[i] = a[i] * b[i];
}

template <typename Narrow>
static void narrow_panel(const TopkEncode &p, int64_t panel, const float *factor, float *v, uint32_t *space,
                         const Panel &out) {
    LatentBounds &most = *out.largest;
    most = {0, 0, 0, 0};
    const int64_t steps = Narrow::steps(p.d);
    pack_panel(steps, space, out.steps, [&](int l, uint32_t *line) {
        const int64_t j = panel * TILE_LATENTS + l;
        zero(v, p.d);
        if (j < p.n) multiply(p.W_enc + j * p.d, factor, p.d, v);
        if (j + 1 < p.n) prefetch_row(p.W_enc + (j + 1) * p.d, p.d);
        const Narrowed n = Narrow::narrow(v, p.d, static_cast<uint32_t>(j) ^ 0x51ED270Bu, line);
        const LatentBounds own = {n.error, n.norm, n.narrow_norm, j < p.n ? size_of_bias(p.b_enc[j]) : 0.0f};
        if (own.error > most.error) most.error = own.error;
        if (own.norm > most.norm) most.norm = own.norm;
        if (own.narrow_norm > most.narrow_norm) most.narrow_norm = own.narrow_norm;
        if (own.bias > most.bias) most.bias = own.bias;
        out.latents[l] = own;
        Narrow::as_latent(line, steps);
        return line;
    });
}

template <typename Narrow>
static void narrow_rows(const TopkEncode &p, int64_t tile, const float *factor, float *v, uint32_t *line,
                        uint32_t *packed, RowBounds &bounds) {
    bounds = {};
    const int64_t steps = Narrow::steps(p.d);
    for (int r = 0; r < Tile<Narrow>::ROWS; ++r) {
        const int64_t b = tile * Tile<Narrow>::ROWS + r;
        for (int64_t i = 0; i < p.d; ++i) v[i] = b < p.B ? (p.x[b * p.d + i] - p.b_pre[i]) / factor[i] : 0.0f;
        const Narrowed n = Narrow::narrow(v, p.d, static_cast<uint32_t>(b) ^ 0xA3C59AC3u, line);
        bounds.error[r] = n.error;
        bounds.norm[r] = n.narrow_norm;
        bounds.start[r] = Narrow::as_row(line, steps);
        Tile<Narrow>::place(line, steps, r, packed);
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio

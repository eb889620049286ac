// screen: topk_encode's float32 scores and their exact order, after scores in fewer bits have ruled out nearly all
// latents. Narrow says in how many, and how sure the bound is (docs/screens.md).
#pragma once

#include <immintrin.h>

#include "cpu/topk_encode/narrow.h"
#include "cpu/topk_encode/survivors.h"

namespace revelio {
namespace REVELIO_ISA {

template <typename Narrow>
struct Screen {
    static constexpr int64_t ROWS = Tile<Narrow>::ROWS;

    // By how much a score may differ from topk_encode's: what narrowing both factors did, and the rounding of all sums.
    static inline float margin(float row_error, float row_norm, const LatentBounds &latent, float rounding) {
        return Narrow::combined(row_error * latent.norm, latent.error * row_norm) +
               rounding * row_norm * latent.narrow_norm + 1e-6f * latent.bias + Narrow::UNDERFLOW;
    }

    // Keeps the latents of a panel whose score may still reach the threshold of a tile's row.
    static void filter(const TopkEncode &p, const typename Narrow::Sum (*sums)[2], const RowBounds &bounds,
                       const Panel &panel, const float *errors, const float *bias, int64_t latent, int64_t latents,
                       int64_t capacity, ScreenedRow *rows, int64_t count) {
        const float rounding = Narrow::ROUNDINGS * (p.d + 16) * 0x1p-24f;
        const LatentBounds most = *panel.largest;
        constexpr int PADDED_ROWS = (ROWS + 15) / 16 * 16;
        alignas(64) float widest[PADDED_ROWS];
#pragma omp simd
        for (int r = 0; r < PADDED_ROWS; ++r) widest[r] = margin(bounds.error[r], bounds.norm[r], most, rounding);
        const uint32_t present = latents == TILE_LATENTS ? ~0u : (1u << latents) - 1;
        for (int64_t r = 0; r < count; ++r) {
            if (rows[r].given_up) continue;
            const __m512 least = _mm512_set1_ps(rows[r].threshold - widest[r]);
            alignas(64) float scores[TILE_LATENTS];
            uint32_t hits = 0;
            for (int half = 0; half < 2; ++half) {
                const __m512 score = Narrow::score(sums[r][half], bounds.error[r], _mm512_load_ps(errors + 16 * half),
                                                   _mm512_load_ps(bias + 16 * half));
                _mm512_store_ps(scores + 16 * half, score);
                // "not less": NaN is a hit
                hits |= static_cast<uint32_t>(_mm512_cmp_ps_mask(score, least, _CMP_NLT_UQ)) << (16 * half);
            }
            for (hits &= present; hits; hits &= hits - 1) {
                const int l = __builtin_ctz(hits);
                keep(rows[r], p, capacity, latent + l, scores[l],
                     margin(bounds.error[r], bounds.norm[r], panel.latents[l], rounding));
            }
        }
    }
};

// next: the screen for rows that this one gives up on; null: none.
template <typename Narrow>
static ScreenCounts screen(const TopkEncode &p, Screener next) {
    if (p.B == 0) return {0, 0};
    constexpr int64_t ROWS = Tile<Narrow>::ROWS;
    const Blocks blocks = blocks_of(p, ROWS, Narrow::TILES_PER_BLOCK);
    const int64_t panels = panels_of(p), steps = Narrow::steps(p.d);
    const int64_t group = Narrow::PANELS_PER_GROUP < panels ? Narrow::PANELS_PER_GROUP : panels;
    const int64_t capacity = 8 * p.k > 512 ? 8 * p.k : 512;
    const Scratch<uint32_t> packed_x(blocks.tiles * ROWS * steps), packed_w(group * TILE_LATENTS * steps);
    const Scratch<uint32_t> spaces(p.threads * TILE_LATENTS * steps);
    const Scratch<LatentBounds> latent_bounds(group * TILE_LATENTS), largest(group);
    const Scratch<RowBounds> row_bounds(blocks.tiles);
    const Scratch<ScreenedRow> row_states(p.B);
    const Scratch<Candidate> candidates(p.B * capacity);
    const Scratch<float> lows(p.B * p.k), factor(p.d), vectors(p.threads * p.d);
    const Scratch<uint64_t> heaps(p.threads * p.k);
    ScreenedRow *rows = row_states.data;
    for (int64_t b = 0; b < p.B; ++b) {
        rows[b] = {candidates.data + b * capacity, lows.data + b * p.k, 0, 0, -__builtin_inff(), false};
    }
    balance_channels(p, factor.data);
    const auto panel_at = [&](int64_t i) -> Panel {
        return {packed_w.data + i * TILE_LATENTS * steps, latent_bounds.data + i * TILE_LATENTS, largest.data + i};
    };
    const auto screen_block = [&](const Panel &panel, const uint32_t *after, int64_t latent, int64_t first_tile) {
        const int64_t latents = latent + TILE_LATENTS < p.n ? TILE_LATENTS : p.n - latent;
        const int64_t stop = first_tile + blocks.tiles_per_block, end = stop < blocks.tiles ? stop : blocks.tiles;
        alignas(64) float errors[TILE_LATENTS], bias[TILE_LATENTS] = {};
        memcpy(bias, p.b_enc + latent, sizeof(float) * latents);
        for (int l = 0; l < TILE_LATENTS; ++l) errors[l] = panel.latents[l].error;
        for (int64_t tile = first_tile; tile < end; ++tile) {
            const int64_t b = tile * ROWS, present = b + ROWS < p.B ? ROWS : p.B - b;
            const RowBounds &bounds = row_bounds.data[tile];
            if (after) prefetch_share(after, steps, tile - first_tile, end - first_tile);
            typename Narrow::Sum sums[ROWS][2];
            Tile<Narrow>::score(packed_x.data + b * steps, panel.steps, steps, present, bounds.start, sums);
            Screen<Narrow>::filter(p, sums, bounds, panel, errors, bias, latent, latents, capacity, rows + b, present);
        }
    };
#pragma omp parallel num_threads(p.threads)
    {
        const typename Tile<Narrow>::Registers registers;
        float *vector = vectors.data + thread_number() * p.d;
        uint32_t *space = spaces.data + thread_number() * TILE_LATENTS * steps;
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < blocks.tiles; ++tile) {
            RowBounds &bounds = row_bounds.data[tile];
            narrow_rows<Narrow>(p, tile, factor.data, vector, space, packed_x.data + tile * ROWS * steps, bounds);
            for (int64_t b = tile * ROWS; b < (tile + 1) * ROWS && b < p.B; ++b) {
                rows[b].given_up = !(bounds.norm[b % ROWS] < __builtin_inff());
            }
        }
        for (int64_t first = 0; first < panels; first += group) {
            const int64_t count = first + group < panels ? group : panels - first;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count; ++i) {
                narrow_panel<Narrow>(p, first + i, factor.data, vector, space, panel_at(i));
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t block = 0; block < blocks.count; ++block) {
                for (int64_t i = 0; i < count; ++i) {
                    screen_block(panel_at(i), i + 1 < count ? panel_at(i + 1).steps : nullptr,
                                 (first + i) * TILE_LATENTS, block * blocks.tiles_per_block);
                }
            }
        }
#pragma omp for schedule(dynamic, 16)
        for (int64_t b = 0; b < p.B; ++b) {
            if (rows[b].given_up) continue;
            drop_losers(rows[b]);
            rescore(p, b, rows[b], vector, heaps.data + thread_number() * p.k);
        }
    }
    ScreenCounts counts = encode_given_up(p, rows, next);
    for (int64_t b = 0; b < p.B; ++b) counts.rescored += rows[b].given_up ? 0 : rows[b].count;
    return counts;
}

}  // namespace REVELIO_ISA
}  // namespace revelio

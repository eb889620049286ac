// topk_screen: topk_encode with its float32 scores and their exact order, after int8 scores have ruled out nearly all
// latents. Rounding to int8 is stochastic, so that the chance of losing a winner has a proven bound
// (docs/int8-screen.md).
#include <immintrin.h>

#include "cpu/topk_quantise.h"
#include "cpu/topk_rows.h"

namespace revelio {
namespace REVELIO_ISA {

constexpr int64_t PANELS_PER_GROUP = 128;  // quantised latents shared by the threads: 4096 x d bytes
constexpr int64_t TILES_PER_BLOCK = 16;    // rows of x that stay in L2 while the group streams by
constexpr int64_t RESCORED_AT_ONCE = 8;    // independent float32 sums, enough to hide the latency of an FMA
constexpr float DEVIATIONS = 8;            // a latent's bounds fail with probability below 2e-14

struct Candidate {
    uint32_t latent;
    float upper;  // its score is at most this
};

// Of each row: what quantisation made of it, and the latents that may still be among its best.
struct ScreenedRow {
    Candidate *candidates;
    float *lows;  // heap of the k largest lower bounds of scores, the least on top
    int64_t count, low_count;
    float threshold;  // at least k scores reach this
    bool given_up;
};

// By how much int8 and float32 arithmetic together may move a score: 8 sub-Gaussian deviations of both factors'
// stochastic rounding, and the worst case of float32 rounding. The square root is taken of values in float32's range.
static inline float margin(float row_scale, float row_norm, float scale, float norm, float rounded_norm, float bias,
                           float worst) {
    const float from_x = row_scale * norm, from_w = scale * row_norm;
    return 0.5f * DEVIATIONS * __builtin_sqrtf(from_x * from_x + from_w * from_w) + worst * row_norm * rounded_norm +
           1e-6f * bias + 1e-36f;
}

static inline void sink(float *heap, int64_t size, int64_t at) {
    const float moving = heap[at];
    for (int64_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && heap[child + 1] < heap[child]) ++child;
        if (heap[child] >= moving) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static inline void offer_low(ScreenedRow &row, int64_t k, float low) {
    if (!(low >= -__builtin_inff())) low = -__builtin_inff();  // NaN promises nothing
    if (row.low_count < k) {
        row.lows[row.low_count++] = low;
        if (row.low_count < k) return;
        for (int64_t at = k / 2; at-- > 0;) sink(row.lows, k, at);
    } else {
        if (low <= row.lows[0]) return;
        row.lows[0] = low;
        sink(row.lows, k, 0);
    }
    row.threshold = row.lows[0];
}

static inline void drop_losers(ScreenedRow &row) {
    int64_t kept = 0;
    for (int64_t c = 0; c < row.count; ++c) {
        if (!(row.candidates[c].upper < row.threshold)) row.candidates[kept++] = row.candidates[c];
    }
    row.count = kept;
}

static inline void keep(ScreenedRow &row, const TopkEncode &p, int64_t capacity, int64_t latent, float score,
                        float uncertainty) {
    const float upper = score + uncertainty;
    // Latents come in order, so the k that reach the threshold go before this one among equals.
    if (row.given_up || (row.low_count == p.k && upper <= row.threshold)) return;
    if (row.count == capacity) {
        drop_losers(row);
        row.given_up = row.count > capacity - capacity / 4;
    }
    if (row.given_up) return;
    row.candidates[row.count++] = {static_cast<uint32_t>(latent), upper};
    offer_low(row, p.k, score - uncertainty);
}

// out[r][l] = sum_i x[i][r] (w[i][l] - 128), four elements of d at a time
static void screen_tile(const int32_t *__restrict x, const uint8_t *__restrict w, int64_t quads, const int32_t *start,
                        __m512i (*out)[2]) {
    __m512i sums[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; ++r) sums[r][0] = sums[r][1] = _mm512_set1_epi32(start[r]);
    for (int64_t q = 0; q < quads; ++q) {
        const __m512i left = _mm512_load_si512(w + q * 128), right = _mm512_load_si512(w + q * 128 + 64);
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; ++r) {
            const __m512i a = _mm512_set1_epi32(x[q * TILE_ROWS + r]);
            sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], left, a);
            sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], right, a);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < TILE_ROWS; ++r) {
        out[r][0] = sums[r][0];
        out[r][1] = sums[r][1];
    }
}

static void filter_tile(const TopkEncode &p, const __m512i (*sums)[2], const RowBounds &bounds, const Panel &panel,
                        const float *scale, const float *bias, int64_t latent, int64_t latents, int64_t capacity,
                        ScreenedRow *rows, int64_t count) {
    const float worst = 1.01f * (p.d + 16) * 0x1p-24f;
    const LatentBounds &most = *panel.largest;
    alignas(64) float widest[16];
#pragma omp simd
    for (int r = 0; r < 16; ++r) {
        widest[r] = margin(bounds.scale[r], bounds.norm[r], most.scale, most.norm, most.rounded_norm, most.bias, worst);
    }
    const uint32_t present = latents == TILE_LATENTS ? ~0u : (1u << latents) - 1;
    for (int64_t r = 0; r < count; ++r) {
        if (rows[r].given_up) continue;
        const __m512 row_scale = _mm512_set1_ps(bounds.scale[r]);
        const __m512 least = _mm512_set1_ps(rows[r].threshold - widest[r]);
        __m512 scores[2];
        uint32_t hits = 0;
        for (int half = 0; half < 2; ++half) {
            const __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][half]), row_scale);
            scores[half] = _mm512_fmadd_ps(sum, _mm512_load_ps(scale + 16 * half), _mm512_load_ps(bias + 16 * half));
            // "not less": NaN is a hit
            hits |= static_cast<uint32_t>(_mm512_cmp_ps_mask(scores[half], least, _CMP_NLT_UQ)) << (16 * half);
        }
        hits &= present;
        if (!hits) continue;
        alignas(64) float score[TILE_LATENTS];
        _mm512_store_ps(score, scores[0]);
        _mm512_store_ps(score + 16, scores[1]);
        for (; hits; hits &= hits - 1) {
            const int l = __builtin_ctz(hits);
            const LatentBounds &own = panel.latents[l];
            keep(rows[r], p, capacity, latent + l, score[l],
                 margin(bounds.scale[r], bounds.norm[r], own.scale, own.norm, own.rounded_norm, own.bias, worst));
        }
    }
}

// Sequential float32 sums over d of x with each of w, as topk_encode computes them; next is what to fetch meanwhile.
// Not inlined: on its own it keeps all pointers in registers.
__attribute__((noinline)) static void score_exactly(const float *x, const float *const *w, const float *const *next,
                                                    int64_t d, float *out) {
    const float *w0 = w[0], *w1 = w[1], *w2 = w[2], *w3 = w[3], *w4 = w[4], *w5 = w[5], *w6 = w[6], *w7 = w[7];
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    for (int64_t line = 0; line < d; line += 16) {
        for (int c = 0; c < RESCORED_AT_ONCE; ++c) __builtin_prefetch(next[c] + line);
        const int64_t end = line + 16 < d ? line + 16 : d;
        for (int64_t i = line; i < end; ++i) {
            s0 = fmaf(x[i], w0[i], s0);
            s1 = fmaf(x[i], w1[i], s1);
            s2 = fmaf(x[i], w2[i], s2);
            s3 = fmaf(x[i], w3[i], s3);
            s4 = fmaf(x[i], w4[i], s4);
            s5 = fmaf(x[i], w5[i], s5);
            s6 = fmaf(x[i], w6[i], s6);
            s7 = fmaf(x[i], w7[i], s7);
        }
    }
    const float sums[RESCORED_AT_ONCE] = {s0, s1, s2, s3, s4, s5, s6, s7};
    memcpy(out, sums, sizeof sums);
}

static void rescore(const TopkEncode &p, int64_t b, const ScreenedRow &row, float *centred, uint64_t *heap) {
    for (int64_t i = 0; i < p.d; ++i) centred[i] = p.x[b * p.d + i] - p.b_pre[i];
    Row best = {heap, 0, -__builtin_inff()};
    const auto weights = [&](int64_t c) {
        return p.W_enc + row.candidates[c < row.count ? c : row.count - 1].latent * p.d;
    };
    for (int64_t first = 0; first < row.count; first += RESCORED_AT_ONCE) {
        const float *w[RESCORED_AT_ONCE], *next[RESCORED_AT_ONCE];
        for (int64_t c = 0; c < RESCORED_AT_ONCE; ++c) {
            w[c] = weights(first + c);
            next[c] = weights(first + c + RESCORED_AT_ONCE);
        }
        float sums[RESCORED_AT_ONCE];
        score_exactly(centred, w, next, p.d, sums);
        for (int64_t c = 0; c < RESCORED_AT_ONCE && first + c < row.count; ++c) {
            const int64_t latent = row.candidates[first + c].latent;
            offer(best, p.k, key_of(sums[c] + p.b_enc[latent], latent));
        }
    }
    write_row(p, b, best);
}

// Rows that the screen could not narrow down go through topk_encode.
static int64_t encode_given_up(const TopkEncode &p, const ScreenedRow *rows) {
    int64_t count = 0;
    for (int64_t b = 0; b < p.B; ++b) count += rows[b].given_up;
    if (!count) return 0;
    const Scratch<float> x(count * p.d), values(count * p.k);
    const Scratch<int64_t> indices(count * p.k);
    for (int64_t b = 0, r = 0; b < p.B; ++b) {
        if (rows[b].given_up) memcpy(x.data + r++ * p.d, p.x + b * p.d, sizeof(float) * p.d);
    }
    TopkEncode part = p;
    part.x = x.data;
    part.values = values.data;
    part.indices = indices.data;
    part.B = count;
    topk_encode(part);
    for (int64_t b = 0, r = 0; b < p.B; ++b) {
        if (!rows[b].given_up) continue;
        memcpy(p.values + b * p.k, values.data + r * p.k, sizeof(float) * p.k);
        memcpy(p.indices + b * p.k, indices.data + r * p.k, sizeof(int64_t) * p.k);
        ++r;
    }
    return count;
}

ScreenCounts topk_screen(const TopkEncode &p) {
    if (p.B == 0) return {0, 0};
    const int64_t tiles = (p.B + TILE_ROWS - 1) / TILE_ROWS, panels = (p.n + TILE_LATENTS - 1) / TILE_LATENTS;
    const int64_t share = (tiles + p.threads - 1) / p.threads;  // a small batch still gives every thread a block
    const int64_t tiles_per_block = share < 1 ? 1 : share < TILES_PER_BLOCK ? share : TILES_PER_BLOCK;
    const int64_t blocks = (tiles + tiles_per_block - 1) / tiles_per_block, quads = (p.d + 3) / 4;
    const int64_t capacity = 8 * p.k > 512 ? 8 * p.k : 512;
    const Scratch<int32_t> x(tiles * TILE_ROWS * quads);
    const Scratch<uint8_t> w(PANELS_PER_GROUP * TILE_LATENTS * quads * 4), codes(p.threads * quads * 4);
    const Scratch<LatentBounds> latent_bounds(PANELS_PER_GROUP * TILE_LATENTS), largest(PANELS_PER_GROUP);
    const Scratch<RowBounds> row_bounds(tiles);
    const Scratch<ScreenedRow> row_states(p.B);
    const Scratch<Candidate> candidates(p.B * capacity);
    const Scratch<float> lows(p.B * p.k), factor(p.d), lines(p.threads * p.d);
    const Scratch<uint64_t> heaps(p.threads * p.k);
    ScreenedRow *rows = row_states.data;
    for (int64_t b = 0; b < p.B; ++b) {
        rows[b] = {candidates.data + b * capacity, lows.data + b * p.k, 0, 0, -__builtin_inff(), false};
    }
    balance_channels(p, factor.data);
    const auto panel_at = [&](int64_t i) -> Panel {
        return {w.data + i * TILE_LATENTS * quads * 4, latent_bounds.data + i * TILE_LATENTS, largest.data + i};
    };
#pragma omp parallel num_threads(p.threads)
    {
        float *line = lines.data + thread_number() * p.d;
        uint8_t *code = codes.data + thread_number() * quads * 4;
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiles; ++tile) {
            quantise_rows(p, tile, quads, factor.data, line, code, x.data + tile * TILE_ROWS * quads,
                          row_bounds.data[tile]);
            for (int64_t b = tile * TILE_ROWS; b < (tile + 1) * TILE_ROWS && b < p.B; ++b) {
                rows[b].given_up = !(row_bounds.data[tile].norm[b % TILE_ROWS] < __builtin_inff());
            }
        }
        for (int64_t first = 0; first < panels; first += PANELS_PER_GROUP) {
            const int64_t count = first + PANELS_PER_GROUP < panels ? PANELS_PER_GROUP : panels - first;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count; ++i) {
                quantise_panel(p, first + i, quads, factor.data, line, code, panel_at(i));
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t end = (block + 1) * tiles_per_block < tiles ? (block + 1) * tiles_per_block : tiles;
                for (int64_t i = 0; i < count; ++i) {
                    const Panel panel = panel_at(i);
                    const int64_t latent = (first + i) * TILE_LATENTS;
                    const int64_t latents = latent + TILE_LATENTS < p.n ? TILE_LATENTS : p.n - latent;
                    alignas(64) float scale[TILE_LATENTS] = {}, bias[TILE_LATENTS] = {};
                    memcpy(bias, p.b_enc + latent, sizeof(float) * latents);
                    for (int l = 0; l < TILE_LATENTS; ++l) scale[l] = panel.latents[l].scale;
                    for (int64_t tile = block * tiles_per_block; tile < end; ++tile) {
                        const int64_t b = tile * TILE_ROWS, present = b + TILE_ROWS < p.B ? TILE_ROWS : p.B - b;
                        __m512i sums[TILE_ROWS][2];
                        screen_tile(x.data + b * quads, panel.bytes, quads, row_bounds.data[tile].start, sums);
                        filter_tile(p, sums, row_bounds.data[tile], panel, scale, bias, latent, latents, capacity,
                                    rows + b, present);
                    }
                }
            }
        }
#pragma omp for schedule(dynamic, 16)
        for (int64_t b = 0; b < p.B; ++b) {
            if (rows[b].given_up) continue;
            drop_losers(rows[b]);
            rescore(p, b, rows[b], line, heaps.data + thread_number() * p.k);
        }
    }
    ScreenCounts counts = {0, encode_given_up(p, rows)};
    for (int64_t b = 0; b < p.B; ++b) counts.rescored += rows[b].given_up ? 0 : rows[b].count;
    return counts;
}

}  // namespace REVELIO_ISA
}  // namespace revelio

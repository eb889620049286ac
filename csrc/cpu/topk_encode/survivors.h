// What a screen leaves of each row: the latents that may still be among its best, and their scores in float32, by the
// arithmetic and in the order of ties of topk_encode.
#pragma once

#include <cmath>

#include "cpu/topk_encode/rows.h"

namespace revelio {
namespace REVELIO_ISA {

constexpr int64_t RESCORED_AT_ONCE = 8;  // independent float32 sums, enough to hide the latency of an FMA
constexpr int64_t SCREENED_AGAIN = 64;   // rows from which a screen saves more than narrowing W_enc costs

struct Candidate {
    uint32_t latent;
    float upper;  // its score is at most this
};

// Latents that may still be among the best of a row.
struct ScreenedRow {
    Candidate *candidates;
    float *lows;  // heap of the k largest lower bounds of scores, the least on top
    int64_t count, low_count;
    float threshold;  // at least k scores reach this
    bool given_up;
};

static inline void offer_low(ScreenedRow &row, int64_t k, float low) {
    if (!(low >= -__builtin_inff())) low = -__builtin_inff();  // NaN promises nothing
    if (row.low_count < k) {
        row.lows[row.low_count++] = low;
        if (row.low_count < k) return;
        for (int64_t at = k / 2; at-- > 0;) sift_down(row.lows, k, at);
    } else {
        if (low <= row.lows[0]) return;
        row.lows[0] = low;
        sift_down(row.lows, k, 0);
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
    centre(p, b, centred);
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

// Rows that the screen could not narrow down go through the next one, if there is one and they are enough for it to
// pay, else through `wholly`.
static ScreenCounts encode_given_up(const TopkEncode &p, const ScreenedRow *rows, Screener next,
                                    void (*wholly)(const TopkEncode &) = topk_encode) {
    int64_t count = 0;
    for (int64_t b = 0; b < p.B; ++b) count += rows[b].given_up;
    if (!count) return {0, 0};
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
    ScreenCounts counts = {0, count};
    if (next && count >= SCREENED_AGAIN)
        counts.rescored = next(part).rescored;
    else
        wholly(part);
    for (int64_t b = 0, r = 0; b < p.B; ++b) {
        if (!rows[b].given_up) continue;
        memcpy(p.values + b * p.k, values.data + r * p.k, sizeof(float) * p.k);
        memcpy(p.indices + b * p.k, indices.data + r * p.k, sizeof(int64_t) * p.k);
        ++r;
    }
    return counts;
}

}  // namespace REVELIO_ISA
}  // namespace revelio

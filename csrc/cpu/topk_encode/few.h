// few: topk_encode for few rows, at the speed at which W_enc is read once. Its rows are multiplied as they lie, in
// any order of summation; what these sums rule out for certain (docs/screens.md) never needs the tile's layout, and the
// rest is scored by the tile itself, so that the bits are those of any other batch.
#pragma once

#include <cmath>

#include "cpu/topk_encode/dots.h"
#include "cpu/topk_encode/narrow.h"
#include "cpu/topk_encode/survivors.h"

namespace revelio {
namespace REVELIO_ISA {

template <typename Arithmetic, typename Dots>
struct Few {
    typedef typename Arithmetic::Step Step;
    typedef typename Dots::Channel Channel;
    static constexpr int64_t ROWS = Tile<Arithmetic>::ROWS;
    static constexpr float VANISHED = 0x1p-117f;  // twice what 65,536 denormals in x or W_enc can amount to
    static constexpr float MOST = 1e18f;          // norms below it keep sums inside float32

    // What is multiplied, [B][padded], and the norms of that.
    struct Rows {
        const Channel *channels;
        const float *norms;
        int64_t padded;
    };

    // x - b_pre as the arithmetic takes it, and its norm; infinite if too large.
    static float prepare_row(const TopkEncode &p, int64_t b, float *centred, Step *space, Channel *out) {
        centre(p, b, centred);
        const Channel *line = reinterpret_cast<const Channel *>(Arithmetic::line(centred, p.d, space));
        memcpy(out, line, sizeof(Channel) * p.d);
        double squares = 0;
        for (int64_t i = 0; i < p.d; ++i) squares += Dots::value(line[i]) * Dots::value(line[i]);
        const float norm = static_cast<float>(1.000001 * sqrt(squares));
        return norm < MOST ? norm : __builtin_inff();
    }

    // Keeps the latents of a block that may be among the best of a row.
    static void screen(const TopkEncode &p, const Rows &rows, int64_t latent, int64_t latents, float *scores,
                       ScreenedRow *states, int64_t capacity) {
        float squares[DOT_BLOCK] = {}, slope[DOT_BLOCK] = {}, offset[DOT_BLOCK] = {}, bias[DOT_BLOCK] = {};
        for (int64_t l = 0; l < latents; l += DOT_LATENTS) {
            const float *w[DOT_LATENTS];
            for (int64_t s = 0; s < DOT_LATENTS; ++s) {
                w[s] = p.W_enc + (latent + (l + s < latents ? l + s : latents - 1)) * p.d;
            }
            dots<Dots, true>(rows.channels, p.B, rows.padded, w, p.d, scores + l, squares + l);
            for (int64_t b = DOT_ROWS; b < p.B; b += DOT_ROWS) {
                dots<Dots, false>(rows.channels + b * rows.padded, p.B - b, rows.padded, w, p.d,
                                  scores + b * DOT_BLOCK + l, nullptr);
            }
        }
        // The two scores of a latent differ by at most norm * slope + offset.
        const float steps = static_cast<float>(p.d + 32);
        const float rounding = (Dots::TILE_STEP * steps + Dots::DOT_STEP * (steps / LANES + 32)) * 0x1p-24f;
        for (int64_t l = 0; l < latents; ++l) {
            const float norm = Dots::NORM * sqrtf(squares[l]) + 0x1p-55f;
            bias[l] = p.b_enc[latent + l];
            slope[l] = rounding * norm + VANISHED;
            offset[l] = norm < MOST ? VANISHED * norm + 1e-6f * size_of_bias(bias[l]) + 1e-32f : __builtin_inff();
        }
        for (int64_t b = 0; b < p.B; ++b) {
            float *score = scores + b * DOT_BLOCK, uncertain[DOT_BLOCK];
            const float norm = rows.norms[b], threshold = states[b].threshold;
            int hits = 0;
            for (int l = 0; l < DOT_BLOCK; ++l) {
                score[l] += bias[l];
                uncertain[l] = norm * slope[l] + offset[l];
                hits |= !(score[l] + uncertain[l] < threshold);  // NaN is a hit
            }
            if (!hits) continue;
            for (int64_t l = 0; l < latents; ++l) keep(states[b], p, capacity, latent + l, score[l], uncertain[l]);
        }
    }

    // Puts together what the threads kept of a row: at `row`, whose candidates come first in memory.
    static void merge(const TopkEncode &p, const ScreenedRow *parts, int64_t count, int64_t stride, ScreenedRow &row) {
        row = parts[0];
        for (int64_t t = 1; t < count; ++t) {
            const ScreenedRow &part = parts[t * stride];
            row.given_up |= part.given_up;
            for (int64_t c = 0; c < part.low_count; ++c) offer_low(row, p.k, part.lows[c]);
            memmove(row.candidates + row.count, part.candidates, sizeof(Candidate) * part.count);
            row.count += part.count;
        }
        drop_losers(row);
    }

    // A row's survivors by the tile, one panel of them at a time.
    static void score_survivors(const TopkEncode &p, int64_t b, const ScreenedRow &row, float *centred, Step *x,
                                Step *space, Step *packed, uint64_t *heap) {
        const int64_t steps = Arithmetic::steps(p.d);
        centre(p, b, centred);
        const Step *line = Arithmetic::line(centred, p.d, space);
        Tile<Arithmetic>::place(line, steps, 0, x);
        const typename Tile<Arithmetic>::Registers registers;
        const int32_t start[ROWS] = {};
        Row best = {heap, 0, -__builtin_inff()};
        for (int64_t first = 0; first < row.count; first += TILE_LATENTS) {
            const auto latent_of = [&](int64_t c) -> int64_t {
                return row.candidates[first + c < row.count ? first + c : row.count - 1].latent;
            };
            pack_panel(steps, space, packed, [&](int l, Step *own) -> const Step * {
                return Arithmetic::line(p.W_enc + latent_of(l) * p.d, p.d, own);
            });
            typename Arithmetic::Sum sums[ROWS][2];
            Tile<Arithmetic>::score(x, packed, steps, 1, start, sums);
            float scores[TILE_LATENTS];
            memcpy(scores, sums[0], sizeof scores);
            for (int64_t l = 0; l < TILE_LATENTS && first + l < row.count; ++l) {
                offer(best, p.k, key_of(scores[l] + p.b_enc[latent_of(l)], latent_of(l)));
            }
        }
        write_row(p, b, best);
    }
};

// Threads share out the latents, then the rows; rows that are given up go through `wholly`.
template <typename Arithmetic, typename Dots>
static ScreenCounts few(const TopkEncode &p, void (*wholly)(const TopkEncode &)) {
    typedef typename Arithmetic::Step Step;
    typedef typename Dots::Channel Channel;
    typedef Few<Arithmetic, Dots> F;
    if (p.B == 0) return {0, 0};
    const int64_t steps = Arithmetic::steps(p.d), parts = p.threads;
    const int64_t padded = (p.d + Dots::CHANNELS - 1) / Dots::CHANNELS * Dots::CHANNELS;
    const int64_t blocks = (p.n + DOT_BLOCK - 1) / DOT_BLOCK, capacity = 8 * p.k > 512 ? 8 * p.k : 512;
    const Scratch<Channel> channels(p.B * padded);
    const Scratch<float> norms(p.B), centred(parts * p.d), scores(parts * p.B * DOT_BLOCK);
    const Scratch<ScreenedRow> states(parts * p.B), merged(p.B);
    const Scratch<Candidate> candidates(p.B * parts * capacity);
    const Scratch<float> lows(parts * p.B * p.k);
    const Scratch<Step> packed_x(parts * F::ROWS * steps), packed_w(parts * TILE_LATENTS * steps);
    const Scratch<Step> spaces(parts * TILE_LATENTS * steps);
    const Scratch<uint64_t> heaps(parts * p.k);
    memset(channels.data, 0, sizeof(Channel) * p.B * padded);
    for (int64_t b = 0; b < p.B; ++b) {
        norms.data[b] = F::prepare_row(p, b, centred.data, spaces.data, channels.data + b * padded);
        for (int64_t t = 0; t < parts; ++t) {
            states.data[t * p.B + b] = {
                candidates.data + (b * parts + t) * capacity, lows.data + (t * p.B + b) * p.k, 0, 0, -__builtin_inff(),
                !(norms.data[b] < __builtin_inff())};
        }
    }
    const typename F::Rows rows = {channels.data, norms.data, padded};
#pragma omp parallel num_threads(p.threads)
    {
        const int64_t t = thread_number();
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t latent = block * DOT_BLOCK, latents = latent + DOT_BLOCK < p.n ? DOT_BLOCK : p.n - latent;
            F::screen(p, rows, latent, latents, scores.data + t * p.B * DOT_BLOCK, states.data + t * p.B, capacity);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t b = 0; b < p.B; ++b) {
            F::merge(p, states.data + b, parts, p.B, merged.data[b]);
            if (merged.data[b].given_up) continue;
            F::score_survivors(p, b, merged.data[b], centred.data + t * p.d, packed_x.data + t * F::ROWS * steps,
                               spaces.data + t * TILE_LATENTS * steps, packed_w.data + t * TILE_LATENTS * steps,
                               heaps.data + t * p.k);
        }
    }
    ScreenCounts counts = encode_given_up(p, merged.data, nullptr, wholly);
    for (int64_t b = 0; b < p.B; ++b) counts.rescored += merged.data[b].given_up ? 0 : merged.data[b].count;
    return counts;
}

}  // namespace REVELIO_ISA
}  // namespace revelio

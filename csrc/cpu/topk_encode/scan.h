// scan: the k best of every row by scores of one arithmetic. A tile is scored in registers and what cannot enter the
// row's top k is dropped at once, so the [B, n] scores never exist. Every score is one sequential sum over d, whatever
// tile, thread or batch it falls in.
#pragma once

#include "cpu/topk_encode/rows.h"
#include "cpu/topk_encode/tile.h"

namespace revelio {
namespace REVELIO_ISA {

template <typename Arithmetic>
struct Scan {
    typedef typename Arithmetic::Step Step;
    static constexpr int64_t ROWS = Tile<Arithmetic>::ROWS;
    static constexpr int64_t PANELS_PER_GROUP = 32;  // packed latents shared by the threads: 1024 lines of d
    static constexpr int64_t FEW_ROWS = 64;          // all of x stays in L2: no need for threads to share panels

    // x - b_pre of a tile in its layout; missing rows are zero.
    static void pack_rows(const TopkEncode &p, int64_t tile, float *centred, Step *line, Step *packed) {
        const int64_t steps = Arithmetic::steps(p.d);
        for (int r = 0; r < ROWS; ++r) {
            const int64_t b = tile * ROWS + r;
            if (b < p.B)
                centre(p, b, centred);
            else
                zero(centred, p.d);
            Tile<Arithmetic>::place(Arithmetic::line(centred, p.d, line), steps, r, packed);
        }
    }

    static void pack(const TopkEncode &p, int64_t panel, Step *space, Step *packed) {
        const int64_t steps = Arithmetic::steps(p.d);
        pack_panel(steps, space, packed, [&](int l, Step *line) -> const Step * {
            const int64_t j = panel * TILE_LATENTS + l;
            if (j < p.n) return Arithmetic::line(p.W_enc + j * p.d, p.d, line);
            memset(line, 0, steps * sizeof(Step));
            return line;
        });
    }

    // Offers the scores of some tiles' rows and one panel's latents; after is the panel to come, null if there is none.
    static void score(const TopkEncode &p, const Step *x, const Step *w, int64_t first_tile, int64_t end_tile,
                      int64_t panel, Row *rows, const Step *after = nullptr) {
        const int64_t steps = Arithmetic::steps(p.d), latent = panel * TILE_LATENTS;
        const int64_t latents = latent + TILE_LATENTS < p.n ? TILE_LATENTS : p.n - latent;
        float bias[TILE_LATENTS] = {};
        memcpy(bias, p.b_enc + latent, sizeof(float) * latents);
        for (int64_t tile = first_tile; tile < end_tile; ++tile) {
            const int64_t b = tile * ROWS, present = b + ROWS < p.B ? ROWS : p.B - b;
            if (after) prefetch_share(after, steps, tile - first_tile, end_tile - first_tile);
            const int32_t start[ROWS] = {};
            typename Arithmetic::Sum sums[ROWS][2];
            Tile<Arithmetic>::score(x + b * steps, w, steps, present, start, sums);
            for (int64_t r = 0; r < present; ++r) {
                float scores[TILE_LATENTS];
                memcpy(scores, sums[r], sizeof scores);
                select(p, scores, bias, latent, latents, rows[b + r]);
            }
        }
    }

    static void select(const TopkEncode &p, float *scores, const float *bias, int64_t latent, int64_t latents,
                       Row &row) {
        int hits = 0;
        for (int l = 0; l < TILE_LATENTS; ++l) {
            scores[l] += bias[l];
            hits |= !(scores[l] < row.threshold);  // NaN is a hit
        }
        if (!hits && row.size == p.k) return;
        for (int64_t l = 0; l < latents; ++l) {
            if (row.size < p.k || !(scores[l] < row.threshold)) offer(row, p.k, key_of(scores[l], latent + l));
        }
    }
};

// Threads take panels, pack and score them alone, and merge their best in the end.
template <typename Arithmetic>
static void scan_few_rows(const TopkEncode &p) {
    typedef typename Arithmetic::Step Step;
    constexpr int64_t ROWS = Tile<Arithmetic>::ROWS;
    const int64_t tiles = blocks_of(p, ROWS, 1).tiles, panels = panels_of(p), steps = Arithmetic::steps(p.d);
    const Scratch<Step> packed_x(tiles * ROWS * steps), packed_w(p.threads * TILE_LATENTS * steps);
    const Scratch<Step> lines(p.threads * TILE_LATENTS * steps);
    const Scratch<float> centred(p.d);
    const Scratch<Row> row_states(p.threads * p.B);
    const Scratch<uint64_t> heaps(p.threads * p.B * p.k);
    for (int64_t r = 0; r < p.threads * p.B; ++r) row_states.data[r] = {heaps.data + r * p.k, 0, -__builtin_inff()};
    for (int64_t tile = 0; tile < tiles; ++tile) {
        Scan<Arithmetic>::pack_rows(p, tile, centred.data, lines.data, packed_x.data + tile * ROWS * steps);
    }
#pragma omp parallel num_threads(p.threads)
    {
        const typename Tile<Arithmetic>::Registers registers;
        const int64_t thread = thread_number();
        Step *w = packed_w.data + thread * TILE_LATENTS * steps;
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < panels; ++panel) {
            Scan<Arithmetic>::pack(p, panel, lines.data + thread * TILE_LATENTS * steps, w);
            Scan<Arithmetic>::score(p, packed_x.data, w, 0, tiles, panel, row_states.data + thread * p.B);
        }
    }
    for (int64_t b = 0; b < p.B; ++b) {
        Row &row = row_states.data[b];
        for (int64_t thread = 1; thread < p.threads; ++thread) {
            const Row &other = row_states.data[thread * p.B + b];
            for (int64_t s = 0; s < other.size; ++s) offer(row, p.k, other.heap[s]);
        }
        write_row(p, b, row);
    }
}

// Threads pack a group of panels together, then take blocks of rows.
template <typename Arithmetic>
static void scan_many_rows(const TopkEncode &p) {
    typedef typename Arithmetic::Step Step;
    constexpr int64_t ROWS = Tile<Arithmetic>::ROWS;
    const Blocks blocks = blocks_of(p, ROWS, Arithmetic::TILES_PER_BLOCK);
    const int64_t panels = panels_of(p), steps = Arithmetic::steps(p.d), group = Scan<Arithmetic>::PANELS_PER_GROUP;
    const Scratch<Step> packed_x(blocks.tiles * ROWS * steps), packed_w(group * TILE_LATENTS * steps);
    const Scratch<Step> lines(p.threads * TILE_LATENTS * steps);
    const Scratch<float> centred(p.threads * p.d);
    const Scratch<Row> row_states(p.B);
    const Scratch<uint64_t> heaps(p.B * p.k);
    Step *x = packed_x.data, *w = packed_w.data;
    Row *rows = row_states.data;
#pragma omp parallel num_threads(p.threads)
    {
        const typename Tile<Arithmetic>::Registers registers;
        Step *space = lines.data + thread_number() * TILE_LATENTS * steps;
        float *row = centred.data + thread_number() * p.d;
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < blocks.tiles; ++tile) {
            Scan<Arithmetic>::pack_rows(p, tile, row, space, x + tile * ROWS * steps);
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < p.B; ++b) rows[b] = {heaps.data + b * p.k, 0, -__builtin_inff()};
        for (int64_t first = 0; first < panels; first += group) {
            const int64_t count = first + group < panels ? group : panels - first;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count; ++i) {
                Scan<Arithmetic>::pack(p, first + i, space, w + i * TILE_LATENTS * steps);
            }
#pragma omp for schedule(dynamic, 1)
            for (int64_t block = 0; block < blocks.count; ++block) {
                const int64_t start = block * blocks.tiles_per_block, stop = start + blocks.tiles_per_block;
                for (int64_t i = 0; i < count; ++i) {
                    const Step *panel = w + i * TILE_LATENTS * steps;
                    Scan<Arithmetic>::score(p, x, panel, start, stop < blocks.tiles ? stop : blocks.tiles, first + i,
                                            rows, i + 1 < count ? panel + TILE_LATENTS * steps : nullptr);
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < p.B; ++b) write_row(p, b, rows[b]);
    }
}

template <typename Arithmetic>
static void scan(const TopkEncode &p) {
    if (p.B <= Scan<Arithmetic>::FEW_ROWS && p.threads * p.k <= p.n)
        scan_few_rows<Arithmetic>(p);
    else
        scan_many_rows<Arithmetic>(p);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

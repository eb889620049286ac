// A tile of rows x latents: the layout of x and W_enc for it, and the sums of all its pairs in registers. An arithmetic
// says what a step of a sum is, always four bytes: one channel in float32, two in bfloat16, four in int8. Tile says how
// many rows are scored at once, and by which registers; topk_amx.h has another one. Latents are the same for all.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector.h"

namespace revelio {
namespace REVELIO_ISA {

constexpr int TILE_LATENTS = 2 * LANES;

// How rows are cut for the threads.
struct Blocks {
    int64_t tiles, tiles_per_block, count;
};

static inline Blocks blocks_of(const TopkEncode &p, int64_t tile_rows, int64_t most_tiles) {
    const int64_t tiles = (p.B + tile_rows - 1) / tile_rows;
    const int64_t share = (tiles + p.threads - 1) / p.threads;  // a small batch still gives every thread a block
    const int64_t per_block = share < 1 ? 1 : share < most_tiles ? share : most_tiles;
    return {tiles, per_block, (tiles + per_block - 1) / per_block};
}

static inline int64_t panels_of(const TopkEncode &p) {
    return (p.n + TILE_LATENTS - 1) / TILE_LATENTS;
}

#ifdef __clang__
#define REVELIO_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC has that only since version 12
#define REVELIO_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Four{__VA_ARGS__})
#endif

// Four lines of steps become four neighbouring columns of [steps][TILE_LATENTS].
template <typename Step>
static inline void interleave(const Step *const *lines, int64_t start, int64_t end, Step *out) {
    typedef uint32_t Four __attribute__((vector_size(16)));
    int64_t i = start;
    for (; i + 4 <= end; i += 4) {
        Four a, b, c, d;
        memcpy(&a, lines[0] + i, 16);
        memcpy(&b, lines[1] + i, 16);
        memcpy(&c, lines[2] + i, 16);
        memcpy(&d, lines[3] + i, 16);
        const Four ab = REVELIO_SHUFFLE(a, b, 0, 4, 1, 5), cd = REVELIO_SHUFFLE(c, d, 0, 4, 1, 5);
        const Four AB = REVELIO_SHUFFLE(a, b, 2, 6, 3, 7), CD = REVELIO_SHUFFLE(c, d, 2, 6, 3, 7);
        const Four columns[4] = {REVELIO_SHUFFLE(ab, cd, 0, 1, 4, 5), REVELIO_SHUFFLE(ab, cd, 2, 3, 6, 7),
                                 REVELIO_SHUFFLE(AB, CD, 0, 1, 4, 5), REVELIO_SHUFFLE(AB, CD, 2, 3, 6, 7)};
        for (int s = 0; s < 4; ++s) memcpy(out + (i + s) * TILE_LATENTS, &columns[s], 16);
    }
    for (; i < end; ++i) {
        for (int l = 0; l < 4; ++l) out[i * TILE_LATENTS + l] = lines[l][i];
    }
}

// TILE_LATENTS lines laid out [steps][TILE_LATENTS]. line_of(l, space) returns that latent's steps, in space if need
// be; space holds TILE_LATENTS lines.
template <typename Step, typename LineOf>
static void pack_panel(int64_t steps, Step *space, Step *packed, const LineOf &line_of) {
    constexpr int64_t CHUNK =
        64;  // what is written meanwhile stays in L1: it is 8 KB, written a part of a line at a time
    const Step *lines[TILE_LATENTS];
    for (int l = 0; l < TILE_LATENTS; ++l) lines[l] = line_of(l, space + l * steps);
    for (int64_t start = 0; start < steps; start += CHUNK) {
        const int64_t end = start + CHUNK < steps ? start + CHUNK : steps;
        for (int l = 0; l < TILE_LATENTS; l += 4) {
            for (int s = 0; s < 4; ++s) {
                for (int64_t i = end; i < end + CHUNK; i += 16) __builtin_prefetch(lines[l + s] + i);
            }
            interleave(lines + l, start, end, packed + l);
        }
    }
}

#undef REVELIO_SHUFFLE

// One tile's share of fetching the next panel, so that it is in L2 when its turn comes.
static inline void prefetch_share(const void *panel, int64_t steps, int64_t part, int64_t parts) {
    const char *bytes = static_cast<const char *>(panel);
    const int64_t size = 4 * TILE_LATENTS * steps;
    for (int64_t i = size * part / parts & -64; i < size * (part + 1) / parts; i += 64) {
        __builtin_prefetch(bytes + i, 0, 2);
    }
}

// In vector registers.
template <typename Arithmetic>
struct Tile {
    typedef typename Arithmetic::Step Step;
    typedef typename Arithmetic::Sum Sum;

    // 24 accumulators, 2 vectors of W and 1 of x: 27 of AVX-512's 32 registers; else 12 + 2 + 1 of 16.
    static constexpr int ROWS = LANES == 16 ? 12 : 6;

    // What a thread must hold while it scores: nothing.
    struct Registers {
        Registers() {}
    };

    // Puts a row's steps into the layout of its tile: [steps][ROWS].
    static void place(const Step *line, int64_t steps, int r, Step *tile) {
        for (int64_t i = 0; i < steps; ++i) tile[i * ROWS + r] = line[i];
    }

    // sums[r][l] = start[r] + the products of row r and latent l, in the order of d; only of the rows that are there:
    // a tile of one row costs a sixth of a full one, not as much.
    static void score(const Step *x, const Step *w, int64_t steps, int64_t present, const int32_t *start,
                      Sum (*sums)[2]) {
        if (present > 6)
            score_rows<ROWS>(x, w, steps, start, sums);
        else if (present > 3)
            score_rows<6>(x, w, steps, start, sums);
        else if (present > 1)
            score_rows<3>(x, w, steps, start, sums);
        else
            score_rows<1>(x, w, steps, start, sums);
    }

    // Not inlined: on its own it keeps all sums in registers.
    template <int PRESENT>
    __attribute__((noinline)) static void score_rows(const Step *__restrict x, const Step *__restrict w, int64_t steps,
                                                     const int32_t *__restrict start, Sum (*__restrict out)[2]) {
        Sum sums[PRESENT][2];
#pragma GCC unroll 12
        for (int r = 0; r < PRESENT; ++r) sums[r][0] = sums[r][1] = Arithmetic::start(start[r]);
        for (int64_t i = 0; i < steps; ++i) {
            const Sum *lanes = reinterpret_cast<const Sum *>(w + i * TILE_LATENTS);
            const Sum left = lanes[0], right = lanes[1];
#pragma GCC unroll 12
            for (int r = 0; r < PRESENT; ++r) {
                const Step a = x[i * ROWS + r];
                sums[r][0] = Arithmetic::add(sums[r][0], a, left);
                sums[r][1] = Arithmetic::add(sums[r][1], a, right);
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < PRESENT; ++r) {
            out[r][0] = sums[r][0];
            out[r][1] = sums[r][1];
        }
    }
};

}  // namespace REVELIO_ISA
}  // namespace revelio

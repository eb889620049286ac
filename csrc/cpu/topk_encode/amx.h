// Tiles in the registers of AMX, for the screens and for "bf16": 32 rows x 32 latents as 2 x 2 registers of 16 x 16
// sums, with 2 more for x and 2 for W_enc.
//
// Bytes and products of a tile at d = 1280, int8 (bfloat16: twice each). A TDP multiplies 16 rows x 64 bytes of x with
// 64 bytes x 16 latents of W_enc: 4 of them share 4 loads of 1 KiB, so 20 groups of 64 bytes take 80 TDP and 80 loads.
// A TDP occupies the tile unit for 16 cycles, 1280 in all, in which the loads ask for 64 bytes a cycle: x's 40 KiB and
// W_enc's 40 KiB each come twice, from L2 or, partly, from L1. A block of 16 tiles of x is 640 KiB (1.25 MiB) and stays
// in a core's 2 MiB of L2 while a group of panels streams by; each panel of 40 KiB serves the 16 tiles, 2 bytes a cycle
// from L3, and is prefetched one panel ahead. These are computed, not measured.
#pragma once

#include <immintrin.h>

#include "cpu/amx_tiles.h"
#include "cpu/topk_encode/narrow.h"

namespace revelio {
namespace REVELIO_ISA {

// Tile registers are numbers in the instruction, so this is no function.
#define REVELIO_MULTIPLY(sums, x, w)    \
    do {                                \
        if (Base::INTEGERS)             \
            _tile_dpbssd(sums, x, w);   \
        else                            \
            _tile_dpbf16ps(sums, x, w); \
    } while (0)

// An arithmetic whose steps come in sixteens, the 64 bytes of a register's row. Channels that are not there are zero.
template <typename Base>
struct Amx : Base {
    static int64_t steps(int64_t d) { return (Base::steps(d) + 15) / 16 * 16; }
    static void pad(int64_t d, uint32_t *out) {
        memset(out + Base::steps(d), 0, sizeof(uint32_t) * (steps(d) - Base::steps(d)));
    }
    static const uint32_t *line(const float *row, int64_t d, uint32_t *out) {
        pad(d, out);
        return Base::line(row, d, out);
    }
    static Narrowed narrow(const float *v, int64_t d, uint32_t seed, uint32_t *out) {
        pad(d, out);
        return Base::narrow(v, d, seed, out);
    }
    // Both factors are signed: there is nothing to take back.
    static int32_t as_row(const uint32_t *, int64_t) { return 0; }
    static void as_latent(uint32_t *, int64_t) {}
};

template <typename Base>
struct Tile<Amx<Base>> {
    typedef typename Base::Sum Sum;
    static constexpr int ROWS = 32;

    // Configured as long as a thread scores, and released: in use they make every switch of threads save 8 KiB more.
    struct Registers {
        Registers() { _tile_loadconfig(&FULL_TILES); }
        ~Registers() { _tile_release(); }
    };

    // [steps / 16][ROWS][16]: what one register takes is one KiB in a row. W_enc's panels are [steps][32 latents], in
    // which 16 steps of 16 latents are 16 rows of 64 bytes, 128 apart.
    static void place(const uint32_t *line, int64_t steps, int r, uint32_t *tile) {
        for (int64_t i = 0; i < steps; i += 16) memcpy(tile + i * ROWS + 16 * r, line + i, 64);
    }

    // Sums start from zero here, whatever start says: as_row gives nothing else.
    static void score(const uint32_t *x, const uint32_t *w, int64_t steps, int64_t present, const int32_t *,
                      Sum (*sums)[2]) {
        if (present > 16)
            score_rows<true>(x, w, steps, sums);
        else
            score_rows<false>(x, w, steps, sums);
    }

    // The instructions do not tell the compiler what memory they read; the barriers do.
    template <bool LOWER>
    __attribute__((noinline)) static void score_rows(const uint32_t *x, const uint32_t *w, int64_t steps,
                                                     Sum (*sums)[2]) {
        __asm__ volatile("" : : "r"(x), "r"(w) : "memory");
        _tile_zero(0);
        _tile_zero(1);
        if (LOWER) {
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int64_t i = 0; i < steps; i += 16, x += 16 * ROWS, w += 16 * TILE_LATENTS) {
            _tile_loadd(4, x, 64);
            _tile_loadd(6, w, 128);
            _tile_loadd(7, w + 16, 128);
            REVELIO_MULTIPLY(0, 4, 6);
            REVELIO_MULTIPLY(1, 4, 7);
            if (LOWER) {
                _tile_loadd(5, x + 256, 64);
                REVELIO_MULTIPLY(2, 5, 6);
                REVELIO_MULTIPLY(3, 5, 7);
            }
        }
        _tile_stored(0, &sums[0][0], 128);
        _tile_stored(1, &sums[0][1], 128);
        if (LOWER) {
            _tile_stored(2, &sums[16][0], 128);
            _tile_stored(3, &sums[16][1], 128);
        }
        __asm__ volatile("" : : "r"(sums) : "memory");
    }
};

#undef REVELIO_MULTIPLY

}  // namespace REVELIO_ISA
}  // namespace revelio

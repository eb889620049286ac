// topk_encode: scores a tile of rows x latents in registers and drops what cannot enter the row's top k at once, so the
// [B, n] scores never exist. Every score is one sequential sum over d, whatever tile, thread or batch it falls in.
#include "cpu/topk_rows.h"

namespace revelio {
namespace REVELIO_ISA {

#if defined(__AVX512F__)
typedef float Vector __attribute__((vector_size(64)));
constexpr int TILE_ROWS = 12;  // 24 accumulators, 2 vectors of W and 1 of x: 27 of 32 registers
#elif defined(__AVX2__)
typedef float Vector __attribute__((vector_size(32)));
constexpr int TILE_ROWS = 6;  // 12 + 2 + 1 of 16 registers
#else
typedef float Vector __attribute__((vector_size(16)));
constexpr int TILE_ROWS = 6;
#endif
constexpr int LANES = sizeof(Vector) / sizeof(float);
constexpr int TILE_LATENTS = 2 * LANES;
constexpr int64_t PANELS_PER_GROUP = 32;  // packed latents shared by the threads: 1024 x d floats, 5 MB at d = 1280
constexpr int64_t TILES_PER_BLOCK = 4;    // rows of x that stay in L2 while the group streams by

static inline float to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value == value)
        bits += 0x7FFF + ((bits >> 16) & 1);
    else
        bits |= 0x400000;
    bits &= 0xFFFF0000u;
    memcpy(&value, &bits, 4);
    return value;
}

// out[r][l] = sum_i x[i][r] w[i][l]
static void score_tile(const float *__restrict x, const float *__restrict w, int64_t d, float *__restrict out) {
    Vector sums[TILE_ROWS][2] = {};
    for (int64_t i = 0; i < d; ++i) {
        Vector left, right;
        memcpy(&left, w + i * TILE_LATENTS, sizeof left);
        memcpy(&right, w + i * TILE_LATENTS + LANES, sizeof right);
#pragma GCC unroll 12
        for (int r = 0; r < TILE_ROWS; ++r) {
            const float a = x[i * TILE_ROWS + r];
            sums[r][0] += a * left;
            sums[r][1] += a * right;
        }
    }
    memcpy(out, sums, sizeof sums);
}

static void select_tile(const TopkEncode &p, const float *scores, const float *bias, int64_t latent, int64_t latents,
                        Row *rows, int64_t count) {
    for (int64_t r = 0; r < count; ++r) {
        Row &row = rows[r];
        float sums[TILE_LATENTS];
        int hits = 0;
        for (int l = 0; l < TILE_LATENTS; ++l) {
            sums[l] = scores[r * TILE_LATENTS + l] + bias[l];
            hits |= !(sums[l] < row.threshold);  // NaN is a hit
        }
        if (!hits && row.size == p.k) continue;
        for (int64_t l = 0; l < latents; ++l) {
            if (row.size < p.k || !(sums[l] < row.threshold)) offer(row, p.k, key_of(sums[l], latent + l));
        }
    }
}

// x - b_pre, in tiles of TILE_ROWS rows laid out [d][TILE_ROWS]; missing rows are zero.
static void pack_rows(const TopkEncode &p, int64_t tile, float *packed) {
    for (int r = 0; r < TILE_ROWS; ++r) {
        const int64_t b = tile * TILE_ROWS + r;
        for (int64_t i = 0; i < p.d; ++i) {
            const float value = b < p.B ? p.x[b * p.d + i] - p.b_pre[i] : 0.0f;
            packed[i * TILE_ROWS + r] = p.bf16 ? to_bf16(value) : value;
        }
    }
}

// TILE_LATENTS rows of W_enc laid out [d][TILE_LATENTS]; missing latents are zero.
static void pack_panel(const TopkEncode &p, int64_t panel, float *packed) {
    for (int l = 0; l < TILE_LATENTS; ++l) {
        const int64_t j = panel * TILE_LATENTS + l;
        for (int64_t i = 0; i < p.d; ++i) {
            const float value = j < p.n ? p.W_enc[j * p.d + i] : 0.0f;
            packed[i * TILE_LATENTS + l] = p.bf16 ? to_bf16(value) : value;
        }
    }
}

void topk_encode(const TopkEncode &p) {
    const int64_t tiles = (p.B + TILE_ROWS - 1) / TILE_ROWS, panels = (p.n + TILE_LATENTS - 1) / TILE_LATENTS;
    const int64_t share = (tiles + p.threads - 1) / p.threads;  // a small batch still gives every thread a block
    const int64_t tiles_per_block = share < 1 ? 1 : share < TILES_PER_BLOCK ? share : TILES_PER_BLOCK;
    const int64_t blocks = (tiles + tiles_per_block - 1) / tiles_per_block;
    const Scratch<float> packed_x(tiles * TILE_ROWS * p.d), packed_w(PANELS_PER_GROUP * TILE_LATENTS * p.d);
    const Scratch<Row> row_states(p.B);
    const Scratch<uint64_t> heaps(p.B * p.k);
    float *x = packed_x.data, *w = packed_w.data;
    Row *rows = row_states.data;
#pragma omp parallel num_threads(p.threads)
    {
#pragma omp for schedule(static)
        for (int64_t tile = 0; tile < tiles; ++tile) pack_rows(p, tile, x + tile * TILE_ROWS * p.d);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < p.B; ++b) rows[b] = {heaps.data + b * p.k, 0, -__builtin_inff()};
        alignas(64) float scores[TILE_ROWS * TILE_LATENTS];
        for (int64_t first = 0; first < panels; first += PANELS_PER_GROUP) {
            const int64_t count = first + PANELS_PER_GROUP < panels ? PANELS_PER_GROUP : panels - first;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count; ++i) pack_panel(p, first + i, w + i * TILE_LATENTS * p.d);
#pragma omp for schedule(dynamic, 1)
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t end = (block + 1) * tiles_per_block < tiles ? (block + 1) * tiles_per_block : tiles;
                for (int64_t i = 0; i < count; ++i) {
                    const int64_t latent = (first + i) * TILE_LATENTS;
                    const int64_t latents = latent + TILE_LATENTS < p.n ? TILE_LATENTS : p.n - latent;
                    float bias[TILE_LATENTS] = {};
                    memcpy(bias, p.b_enc + latent, sizeof(float) * latents);
                    for (int64_t tile = block * tiles_per_block; tile < end; ++tile) {
                        const int64_t b = tile * TILE_ROWS, present = b + TILE_ROWS < p.B ? TILE_ROWS : p.B - b;
                        score_tile(x + b * p.d, w + i * TILE_LATENTS * p.d, p.d, scores);
                        select_tile(p, scores, bias, latent, latents, rows + b, present);
                    }
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t b = 0; b < p.B; ++b) write_row(p, b, rows[b]);
    }
}

}  // namespace REVELIO_ISA
}  // namespace revelio

// invert_code: a stable least-significant-digit radix sort of the entries by latent, at most 9 bits a pass (2 passes up
// to 262,143 latents). Counts are taken per tile, digit and warp, so that every entry's place is known without atomics.
#include "cuda/launch.cuh"
#include "cuda/vector.cuh"

namespace revelio {
namespace cuda {
namespace {

constexpr int MOST_BITS = 9, MOST_DIGITS = 1 << MOST_BITS;
constexpr int THREADS = 256, WARPS = THREADS / WARP;
constexpr int ROUNDS = 8;               // a warp reads 32 entries at a time, this often
constexpr int TILE = THREADS * ROUNDS;  // entries of a block

struct Pass {
    const int64_t *indices;  // first pass: the code itself
    const uint32_t *keys_in;
    const int64_t *entries_in;
    uint32_t *keys_out;
    int64_t *entries_out;  // null in the last pass, which writes rows and slots
    int64_t *rows, *slots;
    int64_t *tile_counts;   // [digits, tiles], then the entries of the digit in earlier tiles
    int64_t *digit_counts;  // [digits]
    int64_t count, tiles, k, n;
    int shift, digits;
};

__device__ inline uint32_t digit_of(const Pass &p, uint32_t key) {
    return key >> p.shift & (p.digits - 1);
}

// An index that names no latent gets the key n: it comes last, and offsets never reach it.
__device__ inline uint32_t key_of(const Pass &p, int64_t e) {
    if (p.keys_in) return p.keys_in[e];
    const int64_t index = p.indices[e];
    return static_cast<uint32_t>(index >= 0 && index < p.n ? index : p.n);
}

// Ranks a warp's entries among those of the same digit, in order of reading; counts[digit] grows by what was seen.
// A lane without an entry passes the digit p.digits, whose count nobody reads.
__device__ inline uint32_t rank_in_warp(uint32_t digit, uint32_t *counts) {
    const unsigned lane = threadIdx.x % WARP;
    const unsigned peers = __match_any_sync(ALL_LANES, digit);
    const int leader = __ffs(static_cast<int>(peers)) - 1;
    uint32_t before = 0;
    if (static_cast<int>(lane) == leader) {
        before = counts[digit];
        counts[digit] = before + __popc(peers);
    }
    __syncwarp();  // the next round may have another leader for this digit
    return __shfl_sync(ALL_LANES, before, leader) + __popc(peers & ((1u << lane) - 1));
}

struct TileEntry {
    int64_t e;
    bool present;
};

// Warp w of a tile owns 32 * ROUNDS entries in a row, so the order of reading is (warp, round, lane).
__device__ inline TileEntry tile_entry(const Pass &p, int round) {
    const int64_t e = blockIdx.x * static_cast<int64_t>(TILE) + threadIdx.x / WARP * (WARP * ROUNDS) + round * WARP +
                      threadIdx.x % WARP;
    return {e, e < p.count};
}

// The warps' counts, each of p.digits + 1 numbers.
constexpr int COUNTS = WARPS * (MOST_DIGITS + 1);

__device__ inline void clear(uint32_t *counts) {
    for (int i = threadIdx.x; i < COUNTS; i += THREADS) counts[i] = 0;
}

__global__ void __launch_bounds__(THREADS) count_digits(Pass p) {
    static __shared__ uint32_t counts[COUNTS];
    clear(counts);
    __syncthreads();
    for (int round = 0; round < ROUNDS; ++round) {
        const TileEntry entry = tile_entry(p, round);
        const uint32_t digit = entry.present ? digit_of(p, key_of(p, entry.e)) : p.digits;
        rank_in_warp(digit, counts + threadIdx.x / WARP * (p.digits + 1));
    }
    __syncthreads();
    for (int digit = threadIdx.x; digit < p.digits; digit += THREADS) {
        int64_t sum = 0;
        for (int warp = 0; warp < WARPS; ++warp) sum += counts[warp * (p.digits + 1) + digit];
        p.tile_counts[digit * p.tiles + blockIdx.x] = sum;
    }
}

__device__ inline int64_t warp_inclusive_sum(int64_t value) {
    for (unsigned step = 1; step < WARP; step *= 2) {
        const int64_t other = __shfl_up_sync(ALL_LANES, value, step);
        if (threadIdx.x % WARP >= step) value += other;
    }
    return value;
}

// One warp per digit: its counts become sums over the earlier tiles.
__global__ void __launch_bounds__(THREADS) sum_tiles(Pass p) {
    const int digit = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (digit >= p.digits) return;
    int64_t *counts = p.tile_counts + digit * p.tiles, before = 0;
    for (int64_t start = 0; start < p.tiles; start += WARP) {
        const int64_t tile = start + threadIdx.x % WARP;
        const int64_t count = tile < p.tiles ? counts[tile] : 0, sum = warp_inclusive_sum(count);
        if (tile < p.tiles) counts[tile] = before + sum - count;
        before += __shfl_sync(ALL_LANES, sum, WARP - 1);
    }
    if (threadIdx.x % WARP == 0) p.digit_counts[digit] = before;
}

__global__ void __launch_bounds__(THREADS) scatter(Pass p) {
    static __shared__ uint32_t counts[COUNTS];
    static __shared__ int64_t places[MOST_DIGITS];  // of this tile's first entry with the digit
    clear(counts);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (warp == 0) {
        int64_t before = 0;
        for (int start = 0; start < p.digits; start += WARP) {
            const int digit = start + lane;
            const int64_t count = digit < p.digits ? p.digit_counts[digit] : 0, sum = warp_inclusive_sum(count);
            if (digit < p.digits) places[digit] = before + sum - count + p.tile_counts[digit * p.tiles + blockIdx.x];
            before += __shfl_sync(ALL_LANES, sum, WARP - 1);
        }
    }
    __syncthreads();
    uint32_t keys[ROUNDS], ranks[ROUNDS];
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const TileEntry entry = tile_entry(p, round);
        keys[round] = entry.present ? key_of(p, entry.e) : 0;
        ranks[round] =
            rank_in_warp(entry.present ? digit_of(p, keys[round]) : p.digits, counts + warp * (p.digits + 1));
    }
    __syncthreads();
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        const TileEntry entry = tile_entry(p, round);
        if (!entry.present) continue;
        const uint32_t digit = digit_of(p, keys[round]);
        int64_t place = places[digit] + ranks[round];
        for (int w = 0; w < warp; ++w) place += counts[w * (p.digits + 1) + digit];
        const int64_t e = p.entries_in ? p.entries_in[entry.e] : entry.e;
        p.keys_out[place] = keys[round];
        if (p.entries_out) {
            p.entries_out[place] = e;
        } else {
            p.rows[place] = e / p.k;
            p.slots[place] = e % p.k;
        }
    }
}

// offsets[j]: how many sorted keys lie below j.
__global__ void __launch_bounds__(THREADS)
    find_offsets(const uint32_t *keys, int64_t count, int64_t *offsets, int64_t n) {
    const int64_t j = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x;
    if (j > n) return;
    int64_t low = 0, high = count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (keys[middle] < j)
            low = middle + 1;
        else
            high = middle;
    }
    offsets[j] = low;
}

}  // namespace

int64_t invert_code_workspace(int64_t entries) {
    return MOST_DIGITS * (ceil_div(entries, TILE) + 1) * static_cast<int64_t>(sizeof(int64_t)) +
           2 * entries * static_cast<int64_t>(sizeof(int64_t) + sizeof(uint32_t));
}

void invert_code(const InvertCode &q, const Place &place) {
    const DeviceGuard guard(place.device);
    const int64_t count = q.B * q.k, tiles = ceil_div(count, TILE);
    int64_t *tile_counts = static_cast<int64_t *>(place.workspace), *digit_counts = tile_counts + MOST_DIGITS * tiles;
    int64_t *entries[2] = {digit_counts + MOST_DIGITS, digit_counts + MOST_DIGITS + count};
    uint32_t *keys[2] = {reinterpret_cast<uint32_t *>(entries[1] + count),
                         reinterpret_cast<uint32_t *>(entries[1] + count) + count};
    int bits = 1;
    while (q.n >> bits > 0) ++bits;  // of the largest key, n
    const int passes = static_cast<int>(ceil_div(bits, MOST_BITS)), width = static_cast<int>(ceil_div(bits, passes));
    for (int i = 0; i < passes; ++i) {
        const bool first = i == 0, last = i == passes - 1;
        const int in = 1 - i % 2, out = i % 2;
        const Pass pass = {q.indices,
                           first ? nullptr : keys[in],
                           first ? nullptr : entries[in],
                           keys[out],
                           last ? nullptr : entries[out],
                           q.rows,
                           q.slots,
                           tile_counts,
                           digit_counts,
                           count,
                           tiles,
                           q.k,
                           q.n,
                           i * width,
                           1 << width};
        launch("invert_code: count_digits", place, count_digits, tiles, THREADS, 0, pass);
        launch("invert_code: sum_tiles", place, sum_tiles, ceil_div(pass.digits, WARPS), THREADS, 0, pass);
        launch("invert_code: scatter", place, scatter, tiles, THREADS, 0, pass);
    }
    launch("invert_code: find_offsets", place, find_offsets, ceil_div(q.n + 1, THREADS), THREADS, 0,
           keys[(passes - 1) % 2], count, q.offsets, q.n);
}

}  // namespace cuda
}  // namespace revelio

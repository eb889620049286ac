// The loops of limits.h: tiles of multiply-adds with their sums in registers, reading and updating large arrays.
#include "bench/limits.h"

#ifdef REVELIO_AMX
#include "cpu/amx_access.h"
#include "cpu/amx_tiles.h"
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace revelio {
namespace {

// x [STEPS][rows] and w [STEPS][2 vectors]: 22 KB, or 32 KB for AMX, which stay in L1.
constexpr int64_t STEPS = 128, MOST_ROWS = 32, MOST_LANES = 16;

struct Tile {
    alignas(64) uint32_t x[STEPS * MOST_ROWS];
    alignas(64) uint32_t w[STEPS * 2 * MOST_LANES];
    alignas(64) uint32_t sums[MOST_ROWS * 2 * MOST_LANES];
};

// A step of four bytes a row is broadcast and multiplied into two vectors of latents; rows x 2 sums are independent,
// more than any processor's latency times width asks for. Functions that carry `isa`, hence a macro, not a template.
// The sums are written one by one, or GCC keeps the array in memory beside the registers.
#define REVELIO_TILE_LOOP(name, isa, Vector, ROWS, broadcast, multiply_add)                         \
    isa __attribute__((noinline)) void name(Tile &tile) {                                           \
        const Vector *w = reinterpret_cast<const Vector *>(tile.w);                                 \
        Vector *out = reinterpret_cast<Vector *>(tile.sums);                                        \
        Vector sums[ROWS][2];                                                                       \
        _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; ++r) sums[r][0] = sums[r][1] = Vector{}; \
        for (int64_t i = 0; i < STEPS; ++i) {                                                       \
            const Vector left = w[2 * i], right = w[2 * i + 1];                                     \
            _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; ++r) {                               \
                const Vector a = (Vector)broadcast(tile.x + i * ROWS + r);                          \
                sums[r][0] = (Vector)multiply_add(sums[r][0], a, left);                             \
                sums[r][1] = (Vector)multiply_add(sums[r][1], a, right);                            \
            }                                                                                       \
        }                                                                                           \
        _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; ++r) {                                   \
            out[2 * r] = sums[r][0];                                                                \
            out[2 * r + 1] = sums[r][1];                                                            \
        }                                                                                           \
    }

typedef float Vector4 __attribute__((vector_size(16), may_alias));
inline Vector4 broadcast4(const uint32_t *x) {
    float value;
    memcpy(&value, x, 4);
    return Vector4{value, value, value, value};
}
#define REVELIO_MULTIPLY_ADD(sum, a, w) ((sum) + (a) * (w))
REVELIO_TILE_LOOP(float32_baseline, , Vector4, 4, broadcast4, REVELIO_MULTIPLY_ADD)

#if defined(__x86_64__) || defined(_M_X64)
#define REVELIO_AVX2 __attribute__((target("avx2,fma")))
#define REVELIO_BROADCAST_AVX2(x) _mm256_set1_epi32(static_cast<int32_t>(*(x)))
#define REVELIO_FMA_AVX2(sum, a, w) _mm256_fmadd_ps(a, w, sum)
REVELIO_TILE_LOOP(float32_avx2, REVELIO_AVX2, __m256, 6, REVELIO_BROADCAST_AVX2, REVELIO_FMA_AVX2)

#define REVELIO_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))
#define REVELIO_BROADCAST_AVX512(x) _mm512_set1_epi32(static_cast<int32_t>(*(x)))
#define REVELIO_FMA_AVX512(sum, a, w) _mm512_fmadd_ps(a, w, sum)
REVELIO_TILE_LOOP(float32_avx512, REVELIO_AVX512, __m512, 12, REVELIO_BROADCAST_AVX512, REVELIO_FMA_AVX512)

#define REVELIO_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define REVELIO_DOT_INT8(sum, a, w) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(w), (__m512i)(a))
typedef int32_t Int16 __attribute__((vector_size(64), may_alias));  // with __m512i, of int64, GCC copies every sum
REVELIO_TILE_LOOP(int8_avx512, REVELIO_VNNI, Int16, 12, REVELIO_BROADCAST_AVX512, REVELIO_DOT_INT8)

#ifdef REVELIO_AVX512BF16
#define REVELIO_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#define REVELIO_DOT_BF16(sum, a, w) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(w))
REVELIO_TILE_LOOP(bf16_avx512, REVELIO_BF16, __m512, 12, REVELIO_BROADCAST_AVX512, REVELIO_DOT_BF16)
#endif

#ifdef REVELIO_AMX
constexpr int AMX_ROUNDS = 16;  // a call: configuring takes as long as a few multiplications

// 32 rows x 32 latents as 2 x 2 registers; x is [STEPS / 16][32 rows][16]. The instructions do not tell the compiler
// what memory they touch; the barriers do.
#define REVELIO_AMX_LOOP(name, isa, multiply_add)                                 \
    __attribute__((target(isa), noinline)) void name(Tile &tile) {                \
        asm volatile("" : : "r"(&tile) : "memory");                               \
        _tile_loadconfig(&FULL_TILES);                                            \
        for (int round = 0; round < AMX_ROUNDS; ++round) {                        \
            _tile_zero(0);                                                        \
            _tile_zero(1);                                                        \
            _tile_zero(2);                                                        \
            _tile_zero(3);                                                        \
            const uint32_t *x = tile.x, *w = tile.w;                              \
            for (int64_t i = 0; i < STEPS; i += 16, x += 16 * 32, w += 16 * 32) { \
                _tile_loadd(4, x, 64);                                            \
                _tile_loadd(5, x + 16 * 16, 64);                                  \
                _tile_loadd(6, w, 128);                                           \
                _tile_loadd(7, w + 16, 128);                                      \
                multiply_add(0, 4, 6);                                            \
                multiply_add(1, 4, 7);                                            \
                multiply_add(2, 5, 6);                                            \
                multiply_add(3, 5, 7);                                            \
            }                                                                     \
        }                                                                         \
        _tile_stored(0, tile.sums, 128);                                          \
        _tile_stored(1, tile.sums + 16, 128);                                     \
        _tile_stored(2, tile.sums + 16 * 32, 128);                                \
        _tile_stored(3, tile.sums + 16 * 32 + 16, 128);                           \
        _tile_release();                                                          \
        asm volatile("" : : "r"(&tile) : "memory");                               \
    }
REVELIO_AMX_LOOP(int8_amx, "amx-tile,amx-int8", _tile_dpbssd)
REVELIO_AMX_LOOP(bf16_amx, "amx-tile,amx-bf16", _tile_dpbf16ps)
#endif
#endif

uint32_t hashed(int64_t i, uint32_t seed) {
    uint32_t h = static_cast<uint32_t>(i) + seed * 0x9E3779B9u;
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    return h ^ h >> 16;
}

// Random bits as numbers of a width: float32 and bf16 within +-[0.5, 1), int8 of any value.
struct Bits {
    uint32_t keep, set;
};
constexpr Bits FLOAT32 = {0x807FFFFFu, 0x3F000000u}, BF16 = {0x807F807Fu, 0x3F003F00u}, INT8 = {0xFFFFFFFFu, 0};

struct Unit {
    const char *name;
    bool here;
    void (*loop)(Tile &);
    Bits bits;
    int64_t rows, lanes, products;  // of a tile; products a lane and step
    int rounds = 1;                 // over the tile in a call
};

std::vector<Unit> units() {
    std::vector<Unit> all = {{"float32-baseline", true, float32_baseline, FLOAT32, 4, 4, 1}};
#if defined(__x86_64__) || defined(_M_X64)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    all.push_back({"float32-avx2", avx2, float32_avx2, FLOAT32, 6, 8, 1});
    all.push_back({"float32-avx512", avx512, float32_avx512, FLOAT32, 12, 16, 1});
    all.push_back({"int8-avx512", vnni, int8_avx512, INT8, 12, 16, 4});
#ifdef REVELIO_AVX512BF16
    all.push_back({"bf16-avx512", avx512 && __builtin_cpu_supports("avx512bf16"), bf16_avx512, BF16, 12, 16, 2});
#endif
#ifdef REVELIO_AMX
    static const bool amx = amx_refusal(true).empty();
    all.push_back({"bf16-amx", amx, bf16_amx, BF16, 32, 16, 2, AMX_ROUNDS});
    all.push_back({"int8-amx", amx, int8_amx, INT8, 32, 16, 4, AMX_ROUNDS});
#endif
#endif
    all.erase(std::remove_if(all.begin(), all.end(), [](const Unit &unit) { return !unit.here; }), all.end());
    return all;
}

int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Rounds a second of `round(thread)` on all threads at once: the best of a few passes, each as long as its share of the
// time.
template <typename Round>
double rounds_a_second(double seconds, int threads, const Round &round) {
    constexpr int PASSES = 3;
    double best = 0;
    for (int pass = 0; pass < PASSES; ++pass) {
        double rate = 0;
#pragma omp parallel num_threads(threads) reduction(+ : rate)
        {
            const int thread = thread_number();
#pragma omp barrier
            const double start = now();
            double elapsed = 0;
            int64_t rounds = 0;
            do {
                round(thread);
                asm volatile("" ::: "memory");  // nothing is known of the next round
                ++rounds;
                elapsed = now() - start;
            } while (elapsed * PASSES < seconds);
            rate += static_cast<double>(rounds) / elapsed;
        }
        best = std::max(best, rate);
    }
    return best;
}

Limit unit_limit(const Unit &unit, double seconds, int threads, uint32_t seed) {
    constexpr int CALLS = 16;  // between two looks at the clock
    std::vector<Tile> tiles(threads);
    for (Tile &tile : tiles) {
        const auto random = [&](int64_t i) { return (hashed(i, seed) & unit.bits.keep) | unit.bits.set; };
        for (int64_t i = 0; i < STEPS * unit.rows; ++i) tile.x[i] = random(i);
        for (int64_t i = 0; i < STEPS * 2 * unit.lanes; ++i) tile.w[i] = random(STEPS * unit.rows + i);
    }
    const double rate = rounds_a_second(seconds, threads, [&](int thread) {
        for (int i = 0; i < CALLS; ++i) unit.loop(tiles[thread]);
    });
    double checksum = 0;
    for (int64_t i = 0; i < unit.rows * 2 * unit.lanes; ++i) {
        const uint32_t sum = tiles[threads - 1].sums[i];
        float value;
        memcpy(&value, &sum, 4);
        checksum += unit.bits.set ? value : static_cast<int32_t>(sum);
    }
    const int64_t operations = 2 * unit.products * STEPS * unit.rows * 2 * unit.lanes * unit.rounds;
    return {rate * CALLS * static_cast<double>(operations), checksum};
}

typedef uint32_t Words __attribute__((vector_size(16)));

uint32_t read(Words *data, int64_t count) {
    Words sums[4] = {};
    for (int64_t i = 0; i < count; i += 4) {
        for (int part = 0; part < 4; ++part) sums[part] += data[i + part];
    }
    const Words sum = sums[0] + sums[1] + sums[2] + sums[3];
    return sum[0] + sum[1] + sum[2] + sum[3];
}

uint32_t update(Words *data, int64_t count) {
    for (int64_t i = 0; i < count; ++i) data[i] |= 1;
    return 0;
}

// Each thread has its own part of one array, on huge pages where there are: the bus is measured, not the page walk.
Limit stream_limit(bool updates, double seconds, int threads, uint32_t seed, int64_t bytes) {
    constexpr int64_t PAGE = int64_t{2} << 20;
    const int64_t count = bytes / threads / 64 * 4, total = count * threads;
    if (count < 4) throw std::invalid_argument("limit: a stream needs at least 64 bytes a thread");
    const int64_t size = (total * static_cast<int64_t>(sizeof(Words)) + PAGE - 1) / PAGE * PAGE;
    const std::unique_ptr<void, decltype(&free)> memory(aligned_alloc(PAGE, size), &free);
    if (!memory) throw std::bad_alloc();
#ifdef __linux__
    madvise(memory.get(), size, MADV_HUGEPAGE);
#endif
    Words *data = static_cast<Words *>(memory.get());
    std::vector<uint32_t> sums(threads);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < total; ++i) {
        for (int64_t lane = 0; lane < 4; ++lane) data[i][lane] = hashed(4 * i + lane, seed);
    }
    const double rate = rounds_a_second(
        seconds, threads, [&](int thread) { sums[thread] = (updates ? update : read)(data + thread * count, count); });
    if (updates) sums = {read(data, total)};
    uint32_t checksum = 0;
    for (const uint32_t sum : sums) checksum += sum;
    return {rate * static_cast<double>(count) * sizeof(Words) * (updates ? 2 : 1), static_cast<double>(checksum)};
}

#if defined(__x86_64__) || defined(_M_X64)
// A chain of products, of three cycles each on every x86 processor with AVX2: the clock that the units run at.
Limit cycles_limit(double seconds, int threads, uint32_t seed) {
    constexpr int PRODUCTS = 1000;
    std::vector<uint64_t> results(threads * 8);
    const double rate = rounds_a_second(seconds, threads, [&](int thread) {
        uint64_t product = 2 * seed + 1, factor = product;
        for (int i = 0; i < PRODUCTS; ++i) asm volatile("imul %1, %0" : "+r"(product) : "r"(factor));
        results[thread * 8] = product;
    });
    return {rate / threads * PRODUCTS * 3, static_cast<double>(results[0])};
}
#endif

}  // namespace

std::vector<std::string> limit_names() {
    std::vector<std::string> names = {"read", "update"};
    for (const Unit &unit : units()) names.push_back(unit.name);
#if defined(__x86_64__) || defined(_M_X64)
    names.push_back("cycles");
#endif
    return names;
}

Limit limit(const std::string &name, double seconds, int threads, uint32_t seed, int64_t bytes) {
    if (threads < 1) throw std::invalid_argument("limit: at least one thread, got " + std::to_string(threads));
    if (name == "read" || name == "update") return stream_limit(name == "update", seconds, threads, seed, bytes);
#if defined(__x86_64__) || defined(_M_X64)
    if (name == "cycles") return cycles_limit(seconds, threads, seed);
#endif
    for (const Unit &unit : units()) {
        if (name == unit.name) return unit_limit(unit, seconds, threads, seed);
    }
    throw std::invalid_argument("limit: this processor has no " + name + "; see limit_names()");
}

}  // namespace revelio

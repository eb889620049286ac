// The screens and bfloat16 scores by AMX, and a check that its sums are right on the machine at hand.
#include "cpu/topk_encode/amx.h"

#include "cpu/topk_encode/bf16.h"
#include "cpu/topk_encode/few.h"
#include "cpu/topk_encode/int8.h"
#include "cpu/topk_encode/scan.h"
#include "cpu/topk_encode/screen.h"

namespace revelio {
namespace REVELIO_ISA {
namespace {

typedef Tile<Amx<Int8>> Int8Tile;
typedef Tile<Amx<Bf16>> Bf16Tile;

// Small integers, which both arithmetics hold and sum exactly; another one for each row and channel.
int32_t known(int64_t row, int64_t channel) {
    return static_cast<int32_t>((row * 37 + channel * 11 + row * channel % 13) % 31) - 15;
}

// Channel number `at` of one step.
void write(int32_t value, int64_t at, int8_t *step) {
    step[at] = static_cast<int8_t>(value);
}

void write(int32_t value, int64_t at, uint16_t *step) {
    const float wide = static_cast<float>(value);
    memcpy(step + at, reinterpret_cast<const char *>(&wide) + 2, 2);
}

// Whether a tile's sums over two loads of each register are what the products of known numbers add up to.
template <typename AmxTile, typename Channel>
bool sums_are_right() {
    constexpr int64_t STEPS = 32, PER_STEP = 4 / sizeof(Channel), CHANNELS = STEPS * PER_STEP;
    alignas(64) uint32_t x[STEPS * AmxTile::ROWS], w[STEPS * TILE_LATENTS], line[STEPS];
    for (int r = 0; r < AmxTile::ROWS; ++r) {
        for (int64_t i = 0; i < CHANNELS; ++i) write(known(r, i), i, reinterpret_cast<Channel *>(line));
        AmxTile::place(line, STEPS, r, x);
    }
    for (int l = 0; l < TILE_LATENTS; ++l) {
        for (int64_t i = 0; i < CHANNELS; ++i) {
            write(known(50 + l, i), i % PER_STEP, reinterpret_cast<Channel *>(w + i / PER_STEP * TILE_LATENTS + l));
        }
    }
    typename AmxTile::Sum sums[AmxTile::ROWS][2];
    {
        const typename AmxTile::Registers registers;
        int64_t steps = STEPS;
        __asm__ volatile("" : "+r"(steps));  // a number the compiler knows would get a copy of the loop to itself
        AmxTile::score(x, w, steps, AmxTile::ROWS, nullptr, sums);
    }
    bool right = true;
    for (int r = 0; r < AmxTile::ROWS; ++r) {
        for (int l = 0; l < TILE_LATENTS; ++l) {
            int32_t expected = 0;
            for (int64_t i = 0; i < CHANNELS; ++i) expected += known(r, i) * known(50 + l, i);
            const float as_float = static_cast<float>(expected);
            const char *sum = reinterpret_cast<const char *>(sums[r]) + 4 * l;
            right &= !memcmp(sum, PER_STEP == 4 ? static_cast<const void *>(&expected) : &as_float, 4);
        }
    }
    return right;
}

}  // namespace

const char *wrong_sums() {
    if (!sums_are_right<Int8Tile, int8_t>()) return "int8";
    if (!sums_are_right<Bf16Tile, uint16_t>()) return "bfloat16";
    return nullptr;
}

ScreenCounts topk_screen_int8(const TopkEncode &p, Screener next) {
    return screen<Amx<Int8>>(p, next);
}

ScreenCounts topk_screen_bf16(const TopkEncode &p) {
    return screen<Amx<Bf16>>(p, nullptr);
}

void topk_encode_bf16(const TopkEncode &p) {
    scan<Amx<Bf16>>(p);
}

ScreenCounts topk_few_bf16(const TopkEncode &p) {
    return few<Amx<Bf16>, Bf16Dots>(p, topk_encode_bf16);
}

}  // namespace REVELIO_ISA
}  // namespace revelio

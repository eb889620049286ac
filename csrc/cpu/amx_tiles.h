// How the tile registers of AMX are configured, in the kernels and where their limit is measured.
#pragma once

#include <cstdint>

namespace revelio {

struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[8], none[8];
    uint8_t rows[8], no_rows[8];
};
static_assert(sizeof(TileConfig) == 64, "what LDTILECFG reads");

// All eight registers of 16 rows of 64 bytes.
alignas(64) static const TileConfig FULL_TILES = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {}, {16, 16, 16, 16, 16, 16, 16, 16}, {}};

}  // namespace revelio

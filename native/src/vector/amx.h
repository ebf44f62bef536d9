// The tile registers of AMX. Included by amx.cpp files only.
//
// tdpbf16ps adds, for each output by itself, the products of up to 16 pairs and then their sum to the accumulator: an output
// depends on nothing but its own row and column, so its sum is one chain over ascending blocks of 32 depths for any number of
// rows.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace manylora {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileDepth = 32;  // of one tile instruction

// The operand of ldtilecfg (Intel SDM, volume 1, 18.3).
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t of_rows, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(of_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};

// Puts what was written at `at`, and all memory others know of, in place before the next tile instruction reads or replaces it.
// gcc's intrinsics do not say what they read: _tile_loadd nothing at all, _tile_loadconfig 8 of its 64 bytes. So stores before
// them might be moved behind them or left out. (_tile_stored does say that it writes.) No instruction comes of this.
inline void settle(const void* at) { asm volatile("" : : "r"(at) : "memory"); }

inline void load_shapes(const TileShapes& shapes) {
  settle(&shapes);
  _tile_loadconfig(&shapes);
}

}  // namespace
}  // namespace manylora

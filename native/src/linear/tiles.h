// How a panel is cut into row tiles: the text that instruction sets share. Included by their own files only, each of which has its
// own copy of the code in an anonymous namespace. `Isa` is a type of theirs.
//
// A tile of fp32 accumulators leaves the base product, is continued by the low-rank terms of the segments it meets, and ends in
// the epilogue. Between the three it lies in the first-level cache.
#pragma once

#include "manylora/linear.h"
#include "manylora/ticks.h"

namespace manylora {
namespace {

constexpr int64_t kMaxTileRows = 32;               // of any instruction set
constexpr int64_t kMaxTile = kMaxTileRows * 48;    // floats: no instruction set uses more rows times columns
constexpr int64_t kMaxRegions = kMaxTileRows + 1;  // every row its own adapter, and the next panel

// Memory that will be read soon, fetched while the arithmetic of a tile runs: the factors B of the tile's segments, then the
// tile's share of the next panel.
struct Ahead {
  Region regions[kMaxRegions];
  int64_t first = 0, count = 0;
  int64_t lines = 0;  // in all regions
  int64_t rate = 0;   // lines of one fetch

  void add(const void* at, int64_t of_region) {
    if (of_region == 0) return;
    regions[count++] = {static_cast<const std::byte*>(at), of_region};
    lines += of_region;
  }
};

// Rows [start, start + rows) of a panel's output.
struct Tile {
  int64_t start, rows;
  float* values;           // [rows, panel width] at stride `pitch`: the panel width, or that of y
  int64_t pitch;           // floats
  const Expansion* whole;  // that all its rows share, or null
};

// Counts the time of a block as that of low-rank terms, when somebody asks.
class ExpandTimer {
 public:
  explicit ExpandTimer(const PanelJob& job) : ticks_(job.expand_ticks), began_(ticks_ == nullptr ? 0 : ticks()) {}
  ~ExpandTimer() {
    if (ticks_ != nullptr) *ticks_ += ticks() - began_;
  }

 private:
  uint64_t* ticks_;
  uint64_t began_;
};

template <class Isa>
void finish(const PanelJob& job, const Tile& tile, int64_t start, int64_t stop, const Expansion* expansion) {
  const int64_t column = job.index * job.width;
  const float* scale = expansion != nullptr && expansion->column_scale != nullptr ? expansion->column_scale + column : nullptr;
  const float* bias = expansion != nullptr && expansion->bias != nullptr ? expansion->bias + column : job.bias;
  for (int64_t row = start; row < stop; ++row) {
    Isa::finish(tile.values + (row - tile.start) * job.width, job.columns, scale, bias, job.accumulate,
                job.y + row * job.y_stride);
  }
}

template <class Isa>
void run_tile(const PanelJob& job, const Tile& tile, int64_t& next) {
  const int64_t stop = tile.start + tile.rows;
  int64_t done = tile.start;  // rows before it are in y
  while (next < job.expansion_count && job.expansions[next].start < stop) {
    const Expansion& expansion = job.expansions[next];
    const int64_t from = expansion.start > tile.start ? expansion.start : tile.start;
    const int64_t to = expansion.stop < stop ? expansion.stop : stop;
    finish<Isa>(job, tile, done, from, nullptr);
    const bf16* b = expansion.b + job.index * even(expansion.rank) * job.width;
    const bf16* s = expansion.s + (from - expansion.start) * expansion.s_stride;
    if (!Isa::expands(job, tile)) {
      const ExpandTimer timer(job);
      Isa::expand(s, expansion.s_stride, to - from, b, even(expansion.rank) / 2, job.width,
                  tile.values + (from - tile.start) * job.width);
    }
    finish<Isa>(job, tile, from, to, &expansion);
    done = to;
    if (expansion.stop > stop) break;  // goes on in the next tile
    ++next;
  }
  finish<Isa>(job, tile, done, stop, nullptr);
}

// The expansion of all rows from `start` to `stop`, or null. `next` as in run_tile.
inline const Expansion* sole_expansion(const PanelJob& job, int64_t next, int64_t start, int64_t stop) {
  if (next == job.expansion_count) return nullptr;
  const Expansion& expansion = job.expansions[next];
  return expansion.start <= start && expansion.stop >= stop ? &expansion : nullptr;
}

template <class Isa>
Ahead look_ahead(const PanelJob& job, const Tile& tile, int64_t next) {
  Ahead ahead;
  for (int64_t i = next; i < job.expansion_count && job.expansions[i].start < tile.start + tile.rows; ++i) {
    const int64_t elements = even(job.expansions[i].rank) * job.width;
    ahead.add(job.expansions[i].b + job.index * elements, (elements * 2 + 63) / 64);
  }
  if (!Isa::touches(job)) {
    const int64_t rows = job.stop - job.start, done = tile.start - job.start;
    const int64_t from = job.next.lines * done / rows, to = job.next.lines * (done + tile.rows) / rows;
    ahead.add(job.next.at + 64 * from, to - from);
  }
  return ahead;
}

// Whether nothing is left to do after `base`, which may then write to y itself.
template <class Isa>
bool is_final(const PanelJob& job, const Tile& tile, int64_t next) {
  if (!Isa::writes_rows(job) || job.accumulate || job.bias != nullptr || job.columns != job.width) return false;
  if (next == job.expansion_count || job.expansions[next].start >= tile.start + tile.rows) return true;
  return Isa::expands(job, tile) && tile.whole->column_scale == nullptr && tile.whole->bias == nullptr;
}

template <class Isa>
void run_panel(const PanelJob& job) {
  alignas(64) float values[kMaxTile];
  int64_t next = 0;  // the first expansion that may meet the tile
  const int64_t most = Isa::tile_rows(job.width);
  for (int64_t row = job.start; row < job.stop;) {
    while (next < job.expansion_count && job.expansions[next].stop <= row) ++next;
    const int64_t left = job.stop - row;
    const int64_t tiles = (left + most - 1) / most;
    const int64_t rows = (left + tiles - 1) / tiles;  // balanced: 32 rows are 4 tiles of 8, not 9 + 9 + 9 + 5
    Tile tile{row, rows, values, job.width, sole_expansion(job, next, row, row + rows)};
    Ahead ahead = look_ahead<Isa>(job, tile, next);
    if (is_final<Isa>(job, tile, next)) {
      tile.values = job.y + row * job.y_stride;
      tile.pitch = job.y_stride;
      Isa::base(job, tile, ahead);
    } else {
      Isa::base(job, tile, ahead);
      run_tile<Isa>(job, tile, next);
    }
    row += rows;
  }
}

}  // namespace
}  // namespace manylora

// AMX: 16 rows x 16 columns x 32 depths in one instruction. What is left of the depth continues the chain by vdpbf16ps.
#include <cstddef>
#include <optional>

#include "../vector/amx.h"
#include "avx512bf16.h"
#include "int8_avx512.h"

namespace manylora {
namespace {

// Up to 16 rows take tiles 0 to V - 1 for their sums; up to 32, in two halves of `rows` rows each, tiles 0 to V - 1 and 3 to
// V + 2, so that each tile of the weight is loaded once for both. Tile 6 holds rows of x, tile 7 columns of the weight; both have
// `pairs` pairs of depths.
thread_local int64_t configured = 0;

void configure(int64_t rows, int64_t pairs) {
  if (configured == rows * 32 + pairs) return;  // it costs as much as several products
  configured = rows * 32 + pairs;
  TileShapes shapes;
  for (int tile = 0; tile < 6; ++tile) shapes.set(tile, rows, 64);
  shapes.set(6, rows, 4 * pairs);
  shapes.set(7, pairs, 64);
  load_shapes(shapes);
}

// Reads a block of a panel in the order in which it lies in memory: the processor's own prefetch follows plain loads at the
// memory's full bandwidth, but not tile loads, whose lines are apart. (Prefetch instructions here cost more than they bring.)
template <int V>
[[gnu::always_inline]] inline void touch(const void* block) {
  const auto* w = static_cast<const std::byte*>(block);
  __m512i lines = _mm512_setzero_si512();
#pragma GCC unroll 64
  for (int64_t i = 0; i < kTileDepth / 2 * V; ++i) lines = _mm512_or_si512(lines, _mm512_load_si512(w + 64 * i));
  asm volatile("" : : "v"(lines));
}

// The operands of some blocks of 32 depths, or ranks.
struct Blocks {
  const bf16* x;  // the first row
  int64_t stride;
  const bf16* w;  // [16 pairs][width][2] of each block
  int64_t count;
};

// Continues tiles 0 to V - 1.
template <int V, bool kCold>
[[gnu::always_inline]] inline void one_half(Blocks blocks, Ahead& ahead) {
  constexpr int64_t kPitch = 64 * V;  // bytes of one pair of depths in a panel, and of a row of the tile
  for (; blocks.count > 0; --blocks.count, blocks.x += kTileDepth, blocks.w += kTileDepth * 16 * V) {
    fetch(ahead);
    if constexpr (kCold) touch<V>(blocks.w);
    _tile_loadd(6, blocks.x, blocks.stride * 2);
    _tile_loadd(7, blocks.w, kPitch);
    _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(7, blocks.w + 32, kPitch);
    _tile_dpbf16ps(1, 6, 7);
    if constexpr (V > 2) {
      _tile_loadd(7, blocks.w + 64, kPitch);
      _tile_dpbf16ps(2, 6, 7);
    }
    if constexpr (V > 3) {
      _tile_loadd(7, blocks.w + 96, kPitch);
      _tile_dpbf16ps(3, 6, 7);
    }
  }
}

// Continues tiles 0 to V - 1 and, for the rows from `second` on, 3 to V + 2.
template <int V, bool kCold>
[[gnu::always_inline]] inline void two_halves(Blocks blocks, int64_t second, Ahead& ahead) {
  constexpr int64_t kPitch = 64 * V;
  const bf16* y = blocks.x + second * blocks.stride;
  for (; blocks.count > 0; --blocks.count, blocks.x += kTileDepth, y += kTileDepth, blocks.w += kTileDepth * 16 * V) {
    fetch(ahead);
    if constexpr (kCold) touch<V>(blocks.w);
    _tile_loadd(6, blocks.x, blocks.stride * 2);
    _tile_loadd(7, blocks.w, kPitch);
    _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(6, y, blocks.stride * 2);
    _tile_dpbf16ps(3, 6, 7);
    _tile_loadd(7, blocks.w + 32, kPitch);
    _tile_dpbf16ps(4, 6, 7);
    _tile_loadd(6, blocks.x, blocks.stride * 2);
    _tile_dpbf16ps(1, 6, 7);
    if constexpr (V > 2) {
      _tile_loadd(7, blocks.w + 64, kPitch);
      _tile_dpbf16ps(2, 6, 7);
      _tile_loadd(6, y, blocks.stride * 2);
      _tile_dpbf16ps(5, 6, 7);
    }
  }
}

// The low-rank term of a tile whose rows share an adapter: whole blocks of ranks, then the rest, padded with zeros.
template <int V>
struct Ranks {
  alignas(64) bf16 padded[kTileDepth * 16 * V];
  const PanelJob& job;
  Blocks whole, rest;

  Ranks(const PanelJob& of, const Tile& tile) : job(of), whole{}, rest{} {
    const Expansion& expansion = *tile.whole;
    const bf16* s = expansion.s + (tile.start - expansion.start) * expansion.s_stride;
    const bf16* b = expansion.b + job.index * even(expansion.rank) * job.width;
    const int64_t blocks = expansion.rank / kTileDepth, ranks = even(expansion.rank) - blocks * kTileDepth;
    const int64_t done = blocks * kTileDepth;
    whole = {s, expansion.s_stride, b, blocks};
    if (ranks == 0) return;
    rest = {s + done, expansion.s_stride, padded, 1};
    __builtin_memcpy(padded, b + done * 16 * V, static_cast<size_t>(ranks * 16 * V) * sizeof(bf16));
    __builtin_memset(padded + ranks * 16 * V, 0, static_cast<size_t>((kTileDepth - ranks) * 16 * V) * sizeof(bf16));
    settle(padded);
  }
};

// Base and low-rank blocks of up to 16 rows.
template <int V, bool kCold>
void one_half_tile(const Blocks& base, const Ranks<V>* ranks, const Tile& tile, Ahead& ahead) {
  const int64_t pitch = tile.pitch * 4;
  float* values = tile.values;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (V > 2) _tile_zero(2);
  if constexpr (V > 3) _tile_zero(3);
  one_half<V, kCold>(base, ahead);
  if (ranks != nullptr) {
    const ExpandTimer timer(ranks->job);
    one_half<V, false>(ranks->whole, ahead);
    one_half<V, false>(ranks->rest, ahead);
  }
  _tile_stored(0, values, pitch);
  _tile_stored(1, values + 16, pitch);
  if constexpr (V > 2) _tile_stored(2, values + 32, pitch);
  if constexpr (V > 3) _tile_stored(3, values + 48, pitch);
}

// The same for up to 32 rows, in two halves of which the second begins at row `second`.
template <int V, bool kCold>
void two_halves_tile(const Blocks& base, const Ranks<V>* ranks, int64_t second, const Tile& tile, Ahead& ahead) {
  const int64_t pitch = tile.pitch * 4;
  float* values = tile.values;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (V > 2) _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  if constexpr (V > 2) _tile_zero(5);
  two_halves<V, kCold>(base, second, ahead);
  if (ranks != nullptr) {
    const ExpandTimer timer(ranks->job);
    two_halves<V, false>(ranks->whole, second, ahead);
    two_halves<V, false>(ranks->rest, second, ahead);
  }
  float* below = values + second * tile.pitch;
  _tile_stored(0, values, pitch);
  _tile_stored(1, values + 16, pitch);
  if constexpr (V > 2) _tile_stored(2, values + 32, pitch);
  _tile_stored(3, below, pitch);
  _tile_stored(4, below + 16, pitch);
  if constexpr (V > 2) _tile_stored(5, below + 32, pitch);
}

// Whether all blocks of a tile, those of its ranks too, are one sequence of tile products.
bool is_one_sequence(const PanelJob& job, const Tile& tile) { return tile.whole != nullptr && job.depth % kTileDepth == 0; }

// Whole blocks of the depth. With an odd number of rows above 16 the halves overlap by one row, which both compute to the same
// bits.
template <int V, bool kCold>
void base_tiles(const PanelJob& job, const Tile& tile, int64_t count, Ahead& ahead) {
  const Blocks base{job.x + tile.start * job.x_stride, job.x_stride, job.panel, count};
  std::optional<Ranks<V>> ranks;
  if (is_one_sequence(job, tile)) ranks.emplace(job, tile);
  const Ranks<V>* then = ranks ? &*ranks : nullptr;
  if (tile.rows <= kTileRows) {
    configure(tile.rows, 16);
    one_half_tile<V, kCold>(base, then, tile, ahead);
  } else if constexpr (V < 4) {
    const int64_t half = (tile.rows + 1) / 2;
    configure(half, 16);
    two_halves_tile<V, kCold>(base, then, tile.rows - half, tile, ahead);
  }
}

template <bool kCold>
void base_blocks(const PanelJob& job, const Tile& tile, int64_t blocks, Ahead& ahead) {
  const auto kernel = job.width == 32   ? base_tiles<2, kCold>
                      : job.width == 48 ? base_tiles<3, kCold>
                                        : base_tiles<4, kCold>;
  kernel(job, tile, blocks, ahead);
}

// Up to 16 rows of values [rows][16 V] continued over up to 16 pairs.
template <int V>
void continue_tiles(const bf16* s, int64_t stride, int64_t rows, const bf16* b, int64_t pairs, float* values) {
  constexpr int64_t kPitch = 64 * V;
  configure(rows, pairs);
  settle(values);  // what is left of the depth was continued by vectors
  _tile_loadd(6, s, stride * 2);
  _tile_loadd(0, values, kPitch);
  _tile_loadd(7, b, kPitch);
  _tile_dpbf16ps(0, 6, 7);
  _tile_stored(0, values, kPitch);
  _tile_loadd(1, values + 16, kPitch);
  _tile_loadd(7, b + 32, kPitch);
  _tile_dpbf16ps(1, 6, 7);
  _tile_stored(1, values + 16, kPitch);
  if constexpr (V > 2) {
    _tile_loadd(2, values + 32, kPitch);
    _tile_loadd(7, b + 64, kPitch);
    _tile_dpbf16ps(2, 6, 7);
    _tile_stored(2, values + 32, kPitch);
  }
  if constexpr (V > 3) {
    _tile_loadd(3, values + 48, kPitch);
    _tile_loadd(7, b + 96, kPitch);
    _tile_dpbf16ps(3, 6, 7);
    _tile_stored(3, values + 48, kPitch);
  }
}

struct Amx : Avx512Epilogue {
  static bool writes_rows(const PanelJob& job) { return job.depth % kTileDepth == 0; }
  static bool touches(const PanelJob& job) { return job.cold; }

  static int64_t tile_rows(int64_t width) { return width == 64 ? kTileRows : 2 * kTileRows; }
  static bool expands(const PanelJob& job, const Tile& tile) { return is_one_sequence(job, tile); }

  static void expand(const bf16* s, int64_t s_stride, int64_t rows, const bf16* b, int64_t pairs, int64_t width,
                     float* values) {
    const auto kernel = width == 32 ? continue_tiles<2> : width == 48 ? continue_tiles<3> : continue_tiles<4>;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t some = rows - row < kTileRows ? rows - row : kTileRows;
      for (int64_t pair = 0; pair < pairs; pair += kTileDepth / 2) {
        const int64_t now = pairs - pair < kTileDepth / 2 ? pairs - pair : kTileDepth / 2;
        kernel(s + row * s_stride + 2 * pair, s_stride, some, b + pair * 2 * width, now, values + row * width);
      }
    }
  }

  static void base(const PanelJob& job, const Tile& tile, Ahead& ahead) {
    const int64_t blocks = job.depth / kTileDepth, done = blocks * kTileDepth;
    ahead.rate = blocks == 0 ? 0 : (ahead.lines + blocks - 1) / blocks;
    if (job.cold && tile.start == job.start) {
      base_blocks<true>(job, tile, blocks, ahead);
    } else {
      base_blocks<false>(job, tile, blocks, ahead);
    }
    if (done == job.depth) return;
    const bf16* x = job.x + tile.start * job.x_stride;
    continue_rows(x + done, job.x_stride, tile.rows, job.panel + done * job.width, (job.depth - done) / 2, job.width,
                  tile.values);
    if (job.depth % 2 == 0) return;
    alignas(4) bf16 last[2 * kTileRows][2];  // the last pair has one depth: what lies behind x is not read
    for (int64_t r = 0; r < tile.rows; ++r) last[r][0] = x[r * job.x_stride + job.depth - 1], last[r][1] = 0;
    continue_rows(last[0], 2, tile.rows, job.panel + (job.depth - 1) * job.width, 1, job.width, tile.values);
  }
};

// int8: 16 rows x 16 columns x 64 depths in one instruction, exactly. The tiles are used, and shaped, as above.
constexpr int64_t kInt8TileDepth = 64;

// Tiles 0 to V - 1, and 3 to V + 2, as rows [16 V] from `upper` and `lower` on. A pitch of 0 makes all rows the same.
template <int V>
[[gnu::always_inline]] inline void load_upper(const void* upper, int64_t pitch) {
  const auto* at = static_cast<const float*>(upper);
  _tile_loadd(0, at, pitch);
  _tile_loadd(1, at + 16, pitch);
  if constexpr (V > 2) _tile_loadd(2, at + 32, pitch);
  if constexpr (V > 3) _tile_loadd(3, at + 48, pitch);
}

template <int V>
[[gnu::always_inline]] inline void load_lower(const void* lower, int64_t pitch) {
  const auto* at = static_cast<const float*>(lower);
  _tile_loadd(3, at, pitch);
  _tile_loadd(4, at + 16, pitch);
  if constexpr (V > 2) _tile_loadd(5, at + 32, pitch);
}

template <int V>
[[gnu::always_inline]] inline void store_upper(float* upper) {
  constexpr int64_t kPitch = 64 * V;
  _tile_stored(0, upper, kPitch);
  _tile_stored(1, upper + 16, kPitch);
  if constexpr (V > 2) _tile_stored(2, upper + 32, kPitch);
  if constexpr (V > 3) _tile_stored(3, upper + 48, kPitch);
}

template <int V>
[[gnu::always_inline]] inline void store_lower(float* lower) {
  constexpr int64_t kPitch = 64 * V;
  _tile_stored(3, lower, kPitch);
  _tile_stored(4, lower + 16, kPitch);
  if constexpr (V > 2) _tile_stored(5, lower + 32, kPitch);
}

template <int V, bool kCold>
[[gnu::always_inline]] inline void int8_one_half(const uint8_t* x, int64_t stride, const Int8Panel& panel, Ahead& ahead) {
  constexpr int64_t kPitch = 64 * V;
  const int8_t* w = panel.q;
  for (int64_t k = 0; k < panel.depth; k += kInt8TileDepth, w += kInt8TileDepth * 16 * V) {
    fetch(ahead);
    if constexpr (kCold) touch<V>(w);
    _tile_loadd(6, x + k, stride);
    _tile_loadd(7, w, kPitch);
    _tile_dpbusd(0, 6, 7);
    _tile_loadd(7, w + 64, kPitch);
    _tile_dpbusd(1, 6, 7);
    if constexpr (V > 2) {
      _tile_loadd(7, w + 128, kPitch);
      _tile_dpbusd(2, 6, 7);
    }
    if constexpr (V > 3) {
      _tile_loadd(7, w + 192, kPitch);
      _tile_dpbusd(3, 6, 7);
    }
  }
}

template <int V, bool kCold>
[[gnu::always_inline]] inline void int8_two_halves(const uint8_t* x, int64_t second, int64_t stride, const Int8Panel& panel,
                                                   Ahead& ahead) {
  constexpr int64_t kPitch = 64 * V;
  const uint8_t* y = x + second * stride;
  const int8_t* w = panel.q;
  for (int64_t k = 0; k < panel.depth; k += kInt8TileDepth, w += kInt8TileDepth * 16 * V) {
    fetch(ahead);
    if constexpr (kCold) touch<V>(w);
    _tile_loadd(6, x + k, stride);
    _tile_loadd(7, w, kPitch);
    _tile_dpbusd(0, 6, 7);
    _tile_loadd(6, y + k, stride);
    _tile_dpbusd(3, 6, 7);
    _tile_loadd(7, w + 64, kPitch);
    _tile_dpbusd(4, 6, 7);
    _tile_loadd(6, x + k, stride);
    _tile_dpbusd(1, 6, 7);
    if constexpr (V > 2) {
      _tile_loadd(7, w + 128, kPitch);
      _tile_dpbusd(2, 6, 7);
      _tile_loadd(6, y + k, stride);
      _tile_dpbusd(5, 6, 7);
    }
  }
}

// The int32 sums of a tile to its values, in place.
template <int V>
void scale_sums(const Int8Panel& panel, const float* row_scales, const Tile& tile) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int v = 0; v < V; ++v) {
      float* at = tile.values + (r * V + v) * kLanes;
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(at)), _mm512_set1_ps(row_scales[r]));
      _mm512_store_ps(at, _mm512_mul_ps(value, _mm512_load_ps(panel.scales + kLanes * v)));
    }
  }
}

template <int V, bool kCold>
void int8_tiles(const PanelJob& job, const Tile& tile, Ahead& ahead) {
  const Int8Panel panel(job);
  const int64_t blocks = panel.depth / kInt8TileDepth, stride = job.int8.stride;
  ahead.rate = (ahead.lines + blocks - 1) / blocks;
  const uint8_t* x = job.int8.q + tile.start * stride;
  if (tile.rows <= kTileRows) {
    configure(tile.rows, 16);
    load_upper<V>(panel.starts, 0);
    int8_one_half<V, kCold>(x, stride, panel, ahead);
    store_upper<V>(tile.values);
  } else if constexpr (V < 4) {
    const int64_t half = (tile.rows + 1) / 2, second = tile.rows - half;
    configure(half, 16);
    load_upper<V>(panel.starts, 0);
    load_lower<V>(panel.starts, 0);
    int8_two_halves<V, kCold>(x, second, stride, panel, ahead);
    store_upper<V>(tile.values);
    store_lower<V>(tile.values + second * 16 * V);
  }
  scale_sums<V>(panel, job.int8.scales + tile.start, tile);
}

template <bool kCold>
void int8_blocks(const PanelJob& job, const Tile& tile, Ahead& ahead) {
  const auto kernel = job.width == 32   ? int8_tiles<2, kCold>
                      : job.width == 48 ? int8_tiles<3, kCold>
                                        : int8_tiles<4, kCold>;
  kernel(job, tile, ahead);
}

// The low-rank term of a tile whose rows share an adapter, after its base product.
template <int V>
void int8_ranks(const PanelJob& job, const Tile& tile, Ahead& ahead) {
  const ExpandTimer timer(job);
  const Ranks<V> ranks(job, tile);
  settle(tile.values);
  if (tile.rows <= kTileRows) {
    configure(tile.rows, 16);
    load_upper<V>(tile.values, 64 * V);
    one_half<V, false>(ranks.whole, ahead);
    one_half<V, false>(ranks.rest, ahead);
    store_upper<V>(tile.values);
  } else if constexpr (V < 4) {
    const int64_t half = (tile.rows + 1) / 2, second = tile.rows - half;
    configure(half, 16);
    load_upper<V>(tile.values, 64 * V);
    load_lower<V>(tile.values + second * 16 * V, 64 * V);
    two_halves<V, false>(ranks.whole, second, ahead);
    two_halves<V, false>(ranks.rest, second, ahead);
    store_upper<V>(tile.values);
    store_lower<V>(tile.values + second * 16 * V);
  }
}

struct Int8Amx : Amx {
  static constexpr int64_t kFewRows = 4;  // up to which vectors are quicker (measured); the bits are the same

  static bool writes_rows(const PanelJob&) { return false; }
  static bool touches(const PanelJob& job) { return job.cold && job.stop - job.start > kFewRows; }
  static bool expands(const PanelJob&, const Tile& tile) { return tile.whole != nullptr; }

  static void base(const PanelJob& job, const Tile& tile, Ahead& ahead) {
    if (tile.rows <= kFewRows) {
      int8_tile_avx512(job, tile, ahead);
    } else {
      const bool cold = job.cold && tile.start == job.start;
      cold ? int8_blocks<true>(job, tile, ahead) : int8_blocks<false>(job, tile, ahead);
    }
    if (!expands(job, tile)) return;
    const auto ranks = job.width == 32 ? int8_ranks<2> : job.width == 48 ? int8_ranks<3> : int8_ranks<4>;
    ranks(job, tile, ahead);
  }
};

template <class Isa>
void panel(const PanelJob& job) {
  run_panel<Isa>(job);
  _tile_release();  // or every switch of threads would save the tiles
  configured = 0;
}

}  // namespace

const LinearKernels linear_amx{panel<Amx>, panel<Int8Amx>};

}  // namespace manylora

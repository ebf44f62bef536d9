// AVX2 + FMA: bf16 is widened in registers. The same sums in the same order as the specification.
#include <immintrin.h>

#include "int8_avx2.h"
#include "manylora/linear.h"
#include "tiles.h"

namespace manylora {
namespace {

constexpr int kLanes = 8;
constexpr int64_t kPairs = 128;  // of one block of depth: its share of the panel stays in the first-level cache

// Of 8 pairs: the first and the second bf16 of each, as fp32.
inline __m256 first_of(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline __m256 second_of(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

// R rows times 8 V columns of a tile, continued over `pairs` pairs.
template <int R, int V>
void multiply(const bf16* x, int64_t stride, const bf16* w, int64_t width, int64_t pairs, float* tile) {
  __m256 acc[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) acc[r][v] = _mm256_load_ps(tile + r * width + v * kLanes);
  }
  for (int64_t k = 0; k < pairs; ++k, w += 2 * width) {
    __m256 first[V], second[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const __m256i columns = _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 2 * kLanes * v));
      first[v] = first_of(columns), second[v] = second_of(columns);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, x + r * stride + 2 * k, sizeof pair);
      const __m256i row = _mm256_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = _mm256_fmadd_ps(first_of(row), first[v], acc[r][v]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = _mm256_fmadd_ps(second_of(row), second[v], acc[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) _mm256_store_ps(tile + r * width + v * kLanes, acc[r][v]);
  }
}

using Multiply = void (*)(const bf16* x, int64_t stride, const bf16* w, int64_t width, int64_t pairs, float* tile);

// All columns of a tile, `pairs` at most kPairs.
void multiply_block(const bf16* x, int64_t stride, int64_t rows, const bf16* w, int64_t width, int64_t pairs, float* tile) {
  static constexpr Multiply wide[] = {multiply<1, 4>, multiply<2, 4>};
  static constexpr Multiply narrow[] = {multiply<1, 2>, multiply<2, 2>, multiply<3, 2>,
                                        multiply<4, 2>, multiply<5, 2>, multiply<6, 2>};
  int64_t column = 0;
  if (rows <= 2) {
    for (; column + 4 * kLanes <= width; column += 4 * kLanes)
      wide[rows - 1](x, stride, w + 2 * column, width, pairs, tile + column);
  }
  for (; column < width; column += 2 * kLanes) narrow[rows - 1](x, stride, w + 2 * column, width, pairs, tile + column);
}

struct Avx2 {
  // Whether `base` can write to rows that are not adjacent.
  static bool writes_rows(const PanelJob&) { return false; }
  // Whether `base` reads ahead by itself.
  static bool touches(const PanelJob&) { return false; }

  // Whether `base` adds the low-rank term of a tile too.
  static bool expands(const PanelJob&, const Tile&) { return false; }

  static int64_t tile_rows(int64_t) { return 6; }

  static void base(const PanelJob& job, const Tile& tile, Ahead&) {
    __builtin_memset(tile.values, 0, static_cast<size_t>(tile.rows * job.width) * sizeof(float));
    const bf16* x = job.x + tile.start * job.x_stride;
    expand(x, job.x_stride, tile.rows, job.panel, job.depth / 2, job.width, tile.values);
    if (job.depth % 2 == 0) return;
    alignas(4) bf16 last[6][2];  // the last pair has one depth: what lies behind x is not read
    for (int64_t r = 0; r < tile.rows; ++r) last[r][0] = x[r * job.x_stride + job.depth - 1], last[r][1] = 0;
    multiply_block(last[0], 2, tile.rows, job.panel + (job.depth - 1) * job.width, job.width, 1, tile.values);
  }

  static void expand(const bf16* x, int64_t stride, int64_t rows, const bf16* w, int64_t pairs, int64_t width, float* values) {
    for (int64_t k = 0; k < pairs; k += kPairs) {
      multiply_block(x + 2 * k, stride, rows, w + 2 * k * width, width, pairs - k < kPairs ? pairs - k : kPairs, values);
    }
  }

  static void finish(const float* values, int64_t columns, const float* scale, const float* bias, bool accumulate, float* y) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int64_t c = 0; c < columns; c += kLanes) {
      const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(columns - c)), lanes);
      __m256 sum = _mm256_load_ps(values + c);
      if (scale != nullptr) sum = _mm256_mul_ps(sum, _mm256_maskload_ps(scale + c, mask));
      if (bias != nullptr) sum = _mm256_add_ps(sum, _mm256_maskload_ps(bias + c, mask));
      if (accumulate) sum = _mm256_add_ps(_mm256_maskload_ps(y + c, mask), sum);
      _mm256_maskstore_ps(y + c, mask, sum);
    }
  }
};

struct Int8Avx2 : Avx2 {
  static void base(const PanelJob& job, const Tile& tile, Ahead&) { int8_tile_avx2(job, tile); }
};

}  // namespace

const LinearKernels linear_avx2{run_panel<Avx2>, run_panel<Int8Avx2>};

}  // namespace manylora

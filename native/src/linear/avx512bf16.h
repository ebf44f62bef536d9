// What the AVX-512 BF16 kernels and those that only add to them share. In an anonymous namespace: each file has its own copy.
#pragma once

#include <immintrin.h>

#include <utility>

#include "manylora/linear.h"
#include "tiles.h"

namespace manylora {
namespace {

constexpr int kLanes = 16;

inline __m512bh as_bf16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }

inline __m512i broadcast_pair(const bf16* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// Fetches the next few lines. Inlined, because a call would spill the accumulators.
[[gnu::always_inline]] inline void fetch(Ahead& ahead) {
  for (int64_t budget = ahead.rate; budget > 0 && ahead.first < ahead.count;) {
    Region& region = ahead.regions[ahead.first];
    const int64_t lines = budget < region.lines ? budget : region.lines;
    for (int64_t i = 0; i < lines; ++i) _mm_prefetch(region.at + 64 * i, _MM_HINT_T1);
    region.at += 64 * lines;
    region.lines -= lines;
    budget -= lines;
    if (region.lines == 0) ++ahead.first;
  }
}

// acc[R][V] continued over `pairs` pairs: x [R rows] at `stride`, w [pairs][16 V][2].
template <int R, int V>
[[gnu::always_inline]] inline void multiply(__m512 (&acc)[R][V], const bf16* x, int64_t stride, const bf16* w, int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k, w += 2 * kLanes * V) {
    __m512bh column[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) column[v] = as_bf16(_mm512_load_si512(w + 2 * kLanes * v));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512bh row = as_bf16(broadcast_pair(x + r * stride + 2 * k));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], row, column[v]);
    }
  }
}

template <int R, int V>
void expand_rows(const bf16* s, int64_t stride, const bf16* b, int64_t pairs, float* tile) {
  __m512 acc[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) acc[r][v] = _mm512_load_ps(tile + (r * V + v) * kLanes);
  }
  multiply<R, V>(acc, s, stride, b, pairs);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) _mm512_store_ps(tile + (r * V + v) * kLanes, acc[r][v]);
  }
}

using RowKernel = void (*)(const bf16* rows, int64_t stride, const bf16* columns, int64_t pairs, float* tile);

template <int V>
constexpr int kRows = V == 2   ? 12
                      : V == 3 ? 8
                               : 6;  // 24 accumulators, and registers left for the columns

inline int64_t most_rows(int64_t width) { return width == 32 ? kRows<2> : width == 48 ? kRows<3> : kRows<4>; }

template <int V, int... R>
RowKernel expand_kernel(int64_t rows, std::integer_sequence<int, R...>) {
  static constexpr RowKernel kernels[] = {expand_rows<R + 1, V>...};
  return kernels[rows - 1];
}

// `rows` rows of a tile continued over `pairs` pairs: x at `stride`, w [pairs][width][2].
inline void continue_rows(const bf16* x, int64_t stride, int64_t rows, const bf16* w, int64_t pairs, int64_t width,
                          float* values) {
  for (int64_t most = most_rows(width), row = 0; row < rows; row += most) {
    const int64_t now = rows - row < most ? rows - row : most;
    const RowKernel kernel = width == 32   ? expand_kernel<2>(now, std::make_integer_sequence<int, kRows<2>>())
                             : width == 48 ? expand_kernel<3>(now, std::make_integer_sequence<int, kRows<3>>())
                                           : expand_kernel<4>(now, std::make_integer_sequence<int, kRows<4>>());
    kernel(x + row * stride, stride, w, pairs, values + row * width);
  }
}

// What follows the base product.
struct Avx512Epilogue {
  // Whether `base` can write to rows that are not adjacent.
  static bool writes_rows(const PanelJob&) { return false; }
  // Whether `base` reads ahead by itself.
  static bool touches(const PanelJob&) { return false; }

  // Whether `base` adds the low-rank term of a tile too.
  static bool expands(const PanelJob&, const Tile&) { return false; }

  static void expand(const bf16* s, int64_t s_stride, int64_t rows, const bf16* b, int64_t pairs, int64_t width, float* values) {
    continue_rows(s, s_stride, rows, b, pairs, width, values);
  }

  static void finish(const float* values, int64_t columns, const float* scale, const float* bias, bool accumulate, float* y) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t left = columns - c;
      const __mmask16 mask = left >= kLanes ? 0xffff : static_cast<__mmask16>((1 << left) - 1);
      __m512 sum = _mm512_load_ps(values + c);
      if (scale != nullptr) sum = _mm512_mul_ps(sum, _mm512_maskz_loadu_ps(mask, scale + c));
      if (bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, bias + c));
      if (accumulate) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + c), sum);
      _mm512_mask_storeu_ps(y + c, mask, sum);
    }
  }
};

}  // namespace

}  // namespace manylora

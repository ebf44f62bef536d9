// int8 with AVX-512 VNNI: vpdpbusd adds four products of an unsigned and a signed byte, exactly.
#pragma once

#include "avx512bf16.h"
#include "int8.h"

namespace manylora {
namespace {

constexpr int64_t kFours = 4;  // of arithmetic between two fetches

template <int R, int V>
void int8_rows(const PanelJob& job, const Tile& tile, Ahead& ahead) {
  using Sums = int32_t __attribute__((vector_size(64)));
  const Int8Panel panel(job);
  const int64_t stride = job.int8.stride;
  const uint8_t* x = job.int8.q + tile.start * stride;
  const int8_t* w = panel.q;
  Sums acc[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) acc[r][v] = reinterpret_cast<Sums>(_mm512_load_si512(panel.starts + kLanes * v));
  }
  for (int64_t block = 0; block < panel.depth; block += 4 * kFours) {
    fetch(ahead);
    for (int64_t k = block; k < block + 4 * kFours; k += 4, w += 4 * kLanes * V) {
      __m512i column[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) column[v] = _mm512_load_si512(w + 4 * kLanes * v);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        int32_t four;
        __builtin_memcpy(&four, x + r * stride + k, sizeof four);
        const __m512i row = _mm512_set1_epi32(four);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          acc[r][v] = reinterpret_cast<Sums>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(acc[r][v]), row, column[v]));
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    const __m512 row_scale = _mm512_set1_ps(job.int8.scales[tile.start + r]);
    for (int v = 0; v < V; ++v) {
      const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(acc[r][v])), row_scale);
      _mm512_store_ps(tile.values + (r * V + v) * kLanes, _mm512_mul_ps(value, _mm512_load_ps(panel.scales + kLanes * v)));
    }
  }
}

template <int V, int... R>
auto int8_kernel(int64_t rows, std::integer_sequence<int, R...>) {
  static constexpr decltype(&int8_rows<1, V>) kernels[] = {int8_rows<R + 1, V>...};
  return kernels[rows - 1];
}

inline void int8_tile_avx512(const PanelJob& job, const Tile& tile, Ahead& ahead) {
  const int64_t fetches = padded_depth(job.depth) / (4 * kFours);
  ahead.rate = (ahead.lines + fetches - 1) / fetches;
  const auto kernel = job.width == 32   ? int8_kernel<2>(tile.rows, std::make_integer_sequence<int, kRows<2>>())
                      : job.width == 48 ? int8_kernel<3>(tile.rows, std::make_integer_sequence<int, kRows<3>>())
                                        : int8_kernel<4>(tile.rows, std::make_integer_sequence<int, kRows<4>>());
  kernel(job, tile, ahead);
}

}  // namespace
}  // namespace manylora

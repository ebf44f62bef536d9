// int8 with AVX2: bytes are widened to 16 bits, so that no pair of products saturates.
#pragma once

#include <immintrin.h>

#include "int8.h"
#include "tiles.h"

namespace manylora {
namespace {

// R rows times 8 columns of a tile, whose first row and column these are.
template <int R>
void int8_columns(const Int8Panel& panel, int64_t width, int64_t column, const uint8_t* x, int64_t stride,
                  const float* row_scales, float* tile) {
  __m256i acc[R];
  const __m256i start = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel.starts + column));
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) acc[r] = start;
  const int8_t* w = panel.q + 4 * column;
  for (int64_t k = 0; k < panel.depth; k += 4, w += 4 * width) {
    const __m256i fours = _mm256_load_si256(reinterpret_cast<const __m256i*>(w));
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(fours, 8), 8), odd = _mm256_srai_epi16(fours, 8);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      int32_t four;
      __builtin_memcpy(&four, x + r * stride + k, sizeof four);
      const __m256i row = _mm256_set1_epi32(four);
      acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(_mm256_and_si256(row, _mm256_set1_epi16(0xff)), even));
      acc[r] = _mm256_add_epi32(acc[r], _mm256_madd_epi16(_mm256_srli_epi16(row, 8), odd));
    }
  }
  const __m256 scale = _mm256_load_ps(panel.scales + column);
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[r]), _mm256_set1_ps(row_scales[r]));
    _mm256_store_ps(tile + r * width + column, _mm256_mul_ps(value, scale));
  }
}

void int8_tile_avx2(const PanelJob& job, const Tile& tile) {
  static constexpr decltype(&int8_columns<1>) kernels[] = {int8_columns<1>, int8_columns<2>, int8_columns<3>,
                                                           int8_columns<4>, int8_columns<5>, int8_columns<6>};
  const Int8Panel panel(job);
  const uint8_t* x = job.int8.q + tile.start * job.int8.stride;
  for (int64_t column = 0; column < job.width; column += 8) {
    kernels[tile.rows - 1](panel, job.width, column, x, job.int8.stride, job.int8.scales + tile.start, tile.values);
  }
}

}  // namespace
}  // namespace manylora

// Shrink by tiles: s^T = A x^T, so that A is read as it lies, at its true rank. x is transposed on the way, in pairs of depths.
#include <algorithm>

#include "../vector/amx.h"
#include "manylora/lora.h"

namespace manylora {
namespace {

// Tile 0 holds sums, tile 1 ranks of A, tile 2 rows of x. (The intrinsics take nothing but literals.)

void configure(int64_t ranks, int64_t rows) {
  TileShapes shapes;
  shapes.set(0, ranks, 4 * rows);
  shapes.set(1, ranks, 64);
  shapes.set(2, kTileRows, 4 * rows);
  load_shapes(shapes);
}

// The transpose of a 16 x 16 matrix of 32-bit elements, in place.
inline void transpose(__m512i (&m)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(m[i], m[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(m[i], m[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    m[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    m[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    m[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    m[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = m[i], b = m[i + 4], c = m[i + 8], d = m[i + 12];
    t[i] = _mm512_shuffle_i32x4(a, b, 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(c, d, 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(c, d, 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    m[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    m[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    m[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    m[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Rows of x and 32 depths as the tile wants them: [16 pairs][rows], `pitch` bytes from pair to pair.
struct Pairs {
  const void* at;
  int64_t pitch;
};

inline __m512i load_row(const ShrinkJob& job, int64_t row, int64_t k) {  // what lies behind the depth is not read
  const int64_t left = job.depth - k;
  const __mmask32 mask = left >= kTileDepth ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << left) - 1);
  return _mm512_maskz_loadu_epi16(mask, job.x + row * job.x_stride + k);
}

inline Pairs gather(const ShrinkJob& job, int64_t first_row, int64_t rows, int64_t k, int32_t* pairs) {
  if (rows == 1) {
    _mm512_store_si512(pairs, load_row(job, first_row, k));
    return {pairs, 4};
  }
  if (rows == 2) {
    const __m512i a = load_row(job, first_row, k), b = load_row(job, first_row + 1, k);
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    _mm512_store_si512(pairs, _mm512_permutex2var_epi32(a, low, b));
    _mm512_store_si512(pairs + 16, _mm512_permutex2var_epi32(a, high, b));
    return {pairs, 8};
  }
  __m512i m[16];
  for (int r = 0; r < 16; ++r) m[r] = r < rows ? load_row(job, first_row + r, k) : _mm512_setzero_si512();
  transpose(m);
  for (int p = 0; p < 16; ++p) _mm512_store_si512(pairs + 16 * p, m[p]);
  return {pairs, 64};
}

// s = bf16(scale * sum), [rows, ranks] from sums [ranks][16 rows].
void round(const ShrinkJob& job, int64_t first_row, int64_t rows, const float* sums) {
  __m512i m[16];
  for (int j = 0; j < 16; ++j) m[j] = j < job.ranks ? _mm512_load_si512(sums + 16 * j) : _mm512_setzero_si512();
  transpose(m);
  const __mmask16 mask = static_cast<__mmask16>((1u << job.ranks) - 1);
  for (int64_t r = 0; r < rows; ++r) {
    const __m512 scaled = _mm512_mul_ps(_mm512_castsi512_ps(m[r]), _mm512_set1_ps(job.scale));
    _mm256_mask_storeu_epi16(job.s + (first_row + r) * job.s_stride, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(scaled)));
  }
}

// s = bf16(scale * sum), [rows, ranks] from sums [rows][ranks, padded to 16].
void round_rows(const ShrinkJob& job, int64_t first_row, int64_t rows, const float* sums) {
  const __mmask16 mask = static_cast<__mmask16>((1u << job.ranks) - 1);
  for (int64_t r = 0; r < rows; ++r) {
    const __m512 scaled = _mm512_mul_ps(_mm512_load_ps(sums + 16 * r), _mm512_set1_ps(job.scale));
    _mm256_mask_storeu_epi16(job.s + (first_row + r) * job.s_stride, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(scaled)));
  }
}

// A block of 32 depths of A, [16 pairs][16 ranks].
inline void transpose_a(const ShrinkJob& job, int64_t pitch, int64_t k, int32_t* pairs) {
  __m512i m[16];
  for (int j = 0; j < 16; ++j) m[j] = j < job.ranks ? _mm512_load_si512(job.a + j * pitch + k) : _mm512_setzero_si512();
  transpose(m);
  for (int p = 0; p < 16; ++p) _mm512_store_si512(pairs + 16 * p, m[p]);
}

// 64 rows, of whole blocks of depth: s = x A^T, A transposed once for all of them. The products of an output and their order are
// those of s^T = A x^T.
void shrink_64_rows(const ShrinkJob& job, int64_t first_row, int64_t pitch) {
  TileShapes shapes;
  for (int tile = 0; tile < 6; ++tile) shapes.set(tile, kTileRows, 64);
  load_shapes(shapes);
  alignas(64) int32_t pairs[16 * 16];
  alignas(64) float sums[4][16 * 16];
  const bf16* x = job.x + first_row * job.x_stride;
  const int64_t quarter = kTileRows * job.x_stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < job.depth; k += kTileDepth, x += kTileDepth) {
    settle(pairs);  // the last ones have been read
    transpose_a(job, pitch, k, pairs);
    settle(pairs);
    _tile_loadd(4, pairs, 64);
    _tile_loadd(5, x, job.x_stride * 2);
    _tile_dpbf16ps(0, 5, 4);
    _tile_loadd(5, x + quarter, job.x_stride * 2);
    _tile_dpbf16ps(1, 5, 4);
    _tile_loadd(5, x + 2 * quarter, job.x_stride * 2);
    _tile_dpbf16ps(2, 5, 4);
    _tile_loadd(5, x + 3 * quarter, job.x_stride * 2);
    _tile_dpbf16ps(3, 5, 4);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
  for (int64_t i = 0; i < 4; ++i) round_rows(job, first_row + i * kTileRows, kTileRows, sums[i]);
}

// Up to 16 rows.
void shrink_rows(const ShrinkJob& job, int64_t row, int64_t rows, int64_t pitch) {
  alignas(64) int32_t pairs[16 * 16];
  alignas(64) float sums[16 * 16];
  configure(job.ranks, rows);
  _tile_zero(0);
  for (int64_t k = 0; k < job.depth; k += kTileDepth) {
    settle(pairs);  // the last ones have been read
    const Pairs x = gather(job, row, rows, k, pairs);
    settle(pairs);
    _tile_loadd(1, job.a + k, pitch * 2);
    _tile_loadd(2, x.at, x.pitch);
    _tile_dpbf16ps(0, 1, 2);
  }
  _tile_stored(0, sums, 64);
  round(job, row, rows, sums);
}

void shrink(const ShrinkJob& job) {
  const int64_t pitch = (job.depth + kShrinkDepth - 1) / kShrinkDepth * kShrinkDepth;
  int64_t row = 0;
  if (job.depth % kTileDepth == 0) {
    for (; job.rows - row >= 4 * kTileRows; row += 4 * kTileRows) shrink_64_rows(job, row, pitch);
  }
  for (; row < job.rows; row += kTileRows) shrink_rows(job, row, std::min(kTileRows, job.rows - row), pitch);
  _tile_release();  // or every switch of threads would save the tiles
}

}  // namespace

const LoraKernels lora_amx{shrink};

}  // namespace manylora

// Shrink by vdpbf16ps: 16 lanes of depth pairs. Sixteen outputs at a time, so that their sums are reduced together.
#include <immintrin.h>

#include "manylora/lora.h"

namespace manylora {
namespace {

constexpr int64_t kStep = 32;  // depths of one vector

inline __m512bh as_bf16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }

// Adds the lanes of 16 vectors as a tree of halves: lane l gets the sum of sums[l].
inline __m512 reduce(const __m512 (&sums)[16]) {
  __m512 eight[8], four[4], two[2];
  for (int i = 0; i < 8; ++i) {  // [a: 8 sums | b: 8 sums], b eight vectors after a
    const __m512 a = sums[i], b = sums[i + 8];
    eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  for (int i = 0; i < 4; ++i) {  // [a: 4 | b: 4 | c: 4 | d: 4]
    const __m512 a = eight[i], c = eight[i + 4];
    four[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, c, 0x88), _mm512_shuffle_f32x4(a, c, 0xdd));
  }
  for (int i = 0; i < 2; ++i) {
    const __m512 a = four[i], e = four[i + 2];
    two[i] = _mm512_add_ps(_mm512_shuffle_ps(a, e, 0x44), _mm512_shuffle_ps(a, e, 0xee));
  }
  const __m512 one = _mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xdd));
  // Quarter q, place p of `one` holds vector: quarters are {0, 8, 4, 12}, places {0, 2, 1, 3}.
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, one);
}

// R rows times 16 / R ranks. Pointers past the last row or rank repeat the last one; their results are dropped.
template <int R>
void block(const ShrinkJob& job, int64_t first_row, int64_t first_rank) {
  constexpr int J = 16 / R;
  const int64_t pitch = (job.depth + kShrinkDepth - 1) / kShrinkDepth * kShrinkDepth;
  const bf16 *x[R], *a[J];
  for (int r = 0; r < R; ++r) x[r] = job.x + (first_row + r < job.rows ? first_row + r : job.rows - 1) * job.x_stride;
  for (int j = 0; j < J; ++j) a[j] = job.a + (first_rank + j < job.ranks ? first_rank + j : job.ranks - 1) * pitch;
  __m512 sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_ps();
  for (int64_t k = 0; k < job.depth; k += kStep) {
    const int64_t left = job.depth - k;
    const __mmask32 mask = left >= kStep ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << left) - 1);
    __m512bh row[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) row[r] = as_bf16(_mm512_maskz_loadu_epi16(mask, x[r] + k));
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) {
      const __m512bh factor = as_bf16(_mm512_load_si512(a[j] + k));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[r * J + j] = _mm512_dpbf16_ps(sums[r * J + j], row[r], factor);
    }
  }
  alignas(32) bf16 s[16];
  const __m512 scaled = _mm512_mul_ps(reduce(sums), _mm512_set1_ps(job.scale));
  _mm256_store_si256(reinterpret_cast<__m256i*>(s), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(scaled)));
  for (int64_t r = 0; r < R && first_row + r < job.rows; ++r) {
    for (int64_t j = 0; j < J && first_rank + j < job.ranks; ++j)
      job.s[(first_row + r) * job.s_stride + first_rank + j] = s[r * J + j];
  }
}

void shrink(const ShrinkJob& job) {
  for (int64_t row = 0; row < job.rows;) {
    const int64_t left = job.rows - row;
    const int64_t rows = left >= 3 ? 4 : left;
    const int64_t ranks = 16 / rows;
    for (int64_t rank = 0; rank < job.ranks; rank += ranks) {
      if (rows == 4) {
        block<4>(job, row, rank);
      } else if (rows == 2) {
        block<2>(job, row, rank);
      } else {
        block<1>(job, row, rank);
      }
    }
    row += rows;
  }
}

}  // namespace

const LoraKernels lora_avx512bf16{shrink};

}  // namespace manylora

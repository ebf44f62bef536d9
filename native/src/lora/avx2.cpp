// Shrink with AVX2 + FMA: the specification's 16 lanes in two vectors.
#include <immintrin.h>

#include "manylora/lora.h"

namespace manylora {
namespace {

constexpr int64_t kStep = 16;  // depths, one per lane

inline __m256 widen(const bf16* eight) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(eight));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

// The tree of halves over 16 lanes.
inline float reduce(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// Continues R x J pairs of accumulators over depths [0, depth), a multiple of 16.
template <int R, int J>
inline void multiply(__m256 (&low)[R][J], __m256 (&high)[R][J], const bf16* const* x, const bf16* const* a, int64_t from,
                     int64_t depth) {
  for (int64_t k = 0; k < depth; k += kStep) {
    __m256 row_low[R], row_high[R];
    for (int r = 0; r < R; ++r) row_low[r] = widen(x[r] + k), row_high[r] = widen(x[r] + k + 8);
    for (int j = 0; j < J; ++j) {
      const __m256 factor_low = widen(a[j] + from + k), factor_high = widen(a[j] + from + k + 8);
      for (int r = 0; r < R; ++r) {
        low[r][j] = _mm256_fmadd_ps(row_low[r], factor_low, low[r][j]);
        high[r][j] = _mm256_fmadd_ps(row_high[r], factor_high, high[r][j]);
      }
    }
  }
}

// R rows times J ranks. Pointers past the last rank repeat it; their results are dropped.
template <int R, int J>
void block(const ShrinkJob& job, int64_t first_row, int64_t first_rank) {
  const int64_t pitch = (job.depth + kShrinkDepth - 1) / kShrinkDepth * kShrinkDepth;
  const bf16 *x[R], *a[J];
  for (int r = 0; r < R; ++r) x[r] = job.x + (first_row + r) * job.x_stride;
  for (int j = 0; j < J; ++j) a[j] = job.a + (first_rank + j < job.ranks ? first_rank + j : job.ranks - 1) * pitch;
  __m256 low[R][J], high[R][J];
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < J; ++j) low[r][j] = high[r][j] = _mm256_setzero_ps();
  }
  const int64_t whole = job.depth / kStep * kStep;
  multiply<R, J>(low, high, x, a, 0, whole);
  if (whole < job.depth) {  // A is padded with zeros; what lies behind x is not read
    bf16 tail[R][kStep] = {};
    const bf16* tails[R];
    for (int r = 0; r < R; ++r) {
      __builtin_memcpy(tail[r], x[r] + whole, static_cast<size_t>(job.depth - whole) * sizeof(bf16));
      tails[r] = tail[r];
    }
    multiply<R, J>(low, high, tails, a, whole, kStep);
  }
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < J && first_rank + j < job.ranks; ++j) {
      job.s[(first_row + r) * job.s_stride + first_rank + j] = to_bf16(reduce(low[r][j], high[r][j]) * job.scale);
    }
  }
}

void shrink(const ShrinkJob& job) {
  for (int64_t row = 0; row < job.rows; row += 2) {
    if (row + 1 < job.rows) {
      for (int64_t rank = 0; rank < job.ranks; rank += 2) block<2, 2>(job, row, rank);
    } else {
      for (int64_t rank = 0; rank < job.ranks; rank += 4) block<1, 4>(job, row, rank);
    }
  }
}

}  // namespace

const LoraKernels lora_avx2{shrink};

}  // namespace manylora

// The vectors of the avx2 capability: 8 floats, masks as vectors, bf16 widened to float before every product.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "manylora/bfloat16.h"

#define MANYLORA_VECTOR [[gnu::always_inline]] static inline

namespace manylora {

struct Avx2 {
  static constexpr int64_t kLanes = 8;
  using Floats = __m256;
  using Mask = __m256i;  // all ones or all zeros per lane
  struct Pairs {         // 8 pairs of bf16, widened
    __m256 first, second;
  };
  using Operand = float;  // what a pair is multiplied with: two of these

  MANYLORA_VECTOR Floats set(float value) { return _mm256_set1_ps(value); }
  MANYLORA_VECTOR Floats load(const float* from) { return _mm256_loadu_ps(from); }
  MANYLORA_VECTOR Floats load(const float* from, Mask mask) { return _mm256_maskload_ps(from, mask); }
  MANYLORA_VECTOR void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
  MANYLORA_VECTOR void store(float* to, Floats value, Mask mask) { _mm256_maskstore_ps(to, mask, value); }
  MANYLORA_VECTOR Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  MANYLORA_VECTOR Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }  // b if one is NaN

  // The first `count` lanes; all of them for kLanes or more, none for 0 or less.
  MANYLORA_VECTOR Mask first(int64_t count) {
    const int32_t limit = static_cast<int32_t>(count > kLanes ? kLanes : count);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  // Both false for NaN.
  MANYLORA_VECTOR Mask less(Floats a, Floats b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  MANYLORA_VECTOR Mask equal(Floats a, Floats b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
  MANYLORA_VECTOR uint32_t bits(Mask mask) { return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(mask))); }
  MANYLORA_VECTOR Floats blend(Mask mask, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(mask)); }
  MANYLORA_VECTOR Floats power_of_two(Floats shifted) {
    const __m256i bits = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(0x3f800000)));
  }

  MANYLORA_VECTOR float lowest_lane(Floats value) { return _mm256_cvtss_f32(value); }
  // Over the lanes, as a tree of halves.
  MANYLORA_VECTOR float sum(Floats value) {
    __m128 half = _mm256_castps256_ps128(value) + _mm256_extractf128_ps(value, 1);
    half = half + _mm_movehl_ps(half, half);
    return half[0] + half[1];
  }
  MANYLORA_VECTOR float highest(Floats value) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
  }

  MANYLORA_VECTOR Floats load_bf16(const bf16* from, Mask mask) {
    bf16 part[kLanes] = {};
    std::memcpy(part, from, sizeof(bf16) * static_cast<size_t>(__builtin_popcount(bits(mask))));  // masks are of first lanes
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(part)));
  }
  MANYLORA_VECTOR void store_bf16(bf16* to, Floats value, Mask mask) {
    bf16 part[kLanes];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(part), round(value));
    std::memcpy(to, part, sizeof(bf16) * static_cast<size_t>(__builtin_popcount(bits(mask))));
  }

  MANYLORA_VECTOR Pairs load_pairs(const bf16* from) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u))))};
  }
  // Only the first of each pair; the second is 0 whatever was stored.
  MANYLORA_VECTOR Pairs load_first_of_pairs(const bf16* from) { return {load_pairs(from).first, _mm256_setzero_ps()}; }
  // sum + first * two[0] + second * two[1], lane by lane.
  MANYLORA_VECTOR Floats dot(Floats sum, Pairs pairs, const Operand* two) {
    sum = _mm256_fmadd_ps(pairs.first, _mm256_broadcast_ss(two), sum);
    return _mm256_fmadd_ps(pairs.second, _mm256_broadcast_ss(two + 1), sum);
  }
  MANYLORA_VECTOR void store_operands(Operand* to, Floats value) { _mm256_storeu_ps(to, value); }
  MANYLORA_VECTOR Floats as_operands(Floats value) { return value; }  // what store_operands keeps of it
  MANYLORA_VECTOR void copy_operands(Operand* to, const bf16* from, int64_t count) {
    for (int64_t i = 0; i < count; i += kLanes) {  // count is a multiple of 16
      _mm256_storeu_ps(to + i, widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    }
  }

 private:
  MANYLORA_VECTOR __m256 widen(__m128i values) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16));
  }
  // To nearest, ties to even; NaN stays NaN: the vector form of to_bf16.
  MANYLORA_VECTOR __m128i round(__m256 value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    const __m256i chosen = _mm256_blendv_epi8(up, quiet, _mm256_castps_si256(nan));
    const __m256i high = _mm256_srli_epi32(chosen, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    return _mm256_castsi256_si128(packed);
  }
};

}  // namespace manylora

#undef MANYLORA_VECTOR

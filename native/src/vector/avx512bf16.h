// The vectors of the avx512bf16 capability: 16 floats, masks in registers, products of bf16 pairs by vdpbf16ps.
#pragma once

// gcc bug 105593: intrinsics with an undefined operand look uninitialized once inlined. In effect to the end of the file that
// includes this one, because that is where the inlining is seen.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "manylora/bfloat16.h"

#define MANYLORA_VECTOR [[gnu::always_inline]] static inline

namespace manylora {

struct Avx512Bf16 {
  static constexpr int64_t kLanes = 16;
  using Floats = __m512;
  using Mask = __mmask16;
  using Pairs = __m512bh;   // 16 pairs of bf16
  using Operand = bf16;     // what a pair is multiplied with: two of these, read together

  MANYLORA_VECTOR Floats set(float value) { return _mm512_set1_ps(value); }
  MANYLORA_VECTOR Floats load(const float* from) { return _mm512_loadu_ps(from); }
  MANYLORA_VECTOR Floats load(const float* from, Mask mask) { return _mm512_maskz_loadu_ps(mask, from); }
  MANYLORA_VECTOR void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
  MANYLORA_VECTOR void store(float* to, Floats value, Mask mask) { _mm512_mask_storeu_ps(to, mask, value); }
  MANYLORA_VECTOR Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  MANYLORA_VECTOR Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // b if one is NaN

  // The first `count` lanes; all of them for kLanes or more, none for 0 or less.
  MANYLORA_VECTOR Mask first(int64_t count) {
    return count >= kLanes ? Mask{0xffff} : count <= 0 ? Mask{0} : static_cast<Mask>((1u << count) - 1u);
  }
  // Both false for NaN.
  MANYLORA_VECTOR Mask less(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  MANYLORA_VECTOR Mask equal(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  MANYLORA_VECTOR uint32_t bits(Mask mask) { return mask; }
  MANYLORA_VECTOR Floats blend(Mask mask, Floats yes, Floats no) { return _mm512_mask_blend_ps(mask, no, yes); }
  MANYLORA_VECTOR Floats power_of_two(Floats shifted) {
    const __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(0x3f800000)));
  }

  MANYLORA_VECTOR float lowest_lane(Floats value) { return _mm512_cvtss_f32(value); }
  // Over the lanes, as a tree of halves.
  MANYLORA_VECTOR float sum(Floats value) {
    const __m256 half = _mm512_castps512_ps256(value) + _mm512_extractf32x8_ps(value, 1);
    __m128 quarter = _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
    quarter = quarter + _mm_movehl_ps(quarter, quarter);
    return quarter[0] + quarter[1];
  }
  MANYLORA_VECTOR float highest(Floats value) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(value), _mm512_extractf32x8_ps(value, 1));
    __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1)));
  }

  MANYLORA_VECTOR Floats load_bf16(const bf16* from, Mask mask) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
  }
  MANYLORA_VECTOR void store_bf16(bf16* to, Floats value, Mask mask) {
    const __m256bh rounded = _mm512_cvtneps_pbh(value);
    __m256i bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    _mm256_mask_storeu_epi16(to, mask, bits);
  }

  MANYLORA_VECTOR Pairs load_pairs(const bf16* from) { return reinterpret_cast<Pairs>(_mm512_loadu_si512(from)); }
  // Only the first of each pair; the second is 0 whatever was stored.
  MANYLORA_VECTOR Pairs load_first_of_pairs(const bf16* from) {
    return reinterpret_cast<Pairs>(_mm512_and_si512(_mm512_loadu_si512(from), _mm512_set1_epi32(0xffff)));
  }
  // sum + first * two[0] + second * two[1], lane by lane.
  MANYLORA_VECTOR Floats dot(Floats sum, Pairs pairs, const Operand* two) {
    int32_t both;
    std::memcpy(&both, two, sizeof both);
    return _mm512_dpbf16_ps(sum, pairs, reinterpret_cast<Pairs>(_mm512_set1_epi32(both)));
  }
  MANYLORA_VECTOR void store_operands(Operand* to, Floats value) { store_bf16(to, value, first(kLanes)); }
  MANYLORA_VECTOR Floats as_operands(Floats value) {  // what store_operands keeps of it
    const __m256bh rounded = _mm512_cvtneps_pbh(value);
    __m256i bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  MANYLORA_VECTOR void copy_operands(Operand* to, const bf16* from, int64_t count) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(bf16));
  }
};

}  // namespace manylora

#undef MANYLORA_VECTOR

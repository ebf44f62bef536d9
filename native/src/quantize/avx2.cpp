#include <immintrin.h>

#include "vector.h"

namespace manylora {
namespace {

struct Avx2Rotation {
  static constexpr int64_t kLanes = 8;
  using Floats = __m256;
  using Bits = __m256i;

  static Floats set(float value) { return _mm256_set1_ps(value); }
  static Floats load(const float* from) { return _mm256_load_ps(from); }
  static void store(float* to, Floats value) { _mm256_store_ps(to, value); }
  static Floats load_bf16(const bf16* from) {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16));
  }
  // Distances 4, 2, 1. Times +1 or -1 is exact: the fused operation rounds as the addition does.
  static Floats rotate_lanes(Floats x) {
    x = _mm256_fmadd_ps(x, _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1), _mm256_permute2f128_ps(x, x, 1));
    x = _mm256_fmadd_ps(x, _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1), _mm256_permute_ps(x, 0x4e));
    return _mm256_fmadd_ps(x, _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), _mm256_permute_ps(x, 0xb1));
  }
  static Bits magnitude(Floats x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }
  static Bits larger(Bits a, Bits b) { return _mm256_max_epu32(a, b); }
  static uint32_t highest(Bits value) {
    __m128i half = _mm_max_epu32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
  }
  static void store_rounded(uint8_t* to, Floats x) {
    const __m256i rounded = _mm256_cvtps_epi32(x);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    const __m128i bytes = _mm_xor_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(static_cast<char>(kInt8Zero)));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), bytes);
  }
};

}  // namespace

const QuantizeKernels quantize_avx2{quantize_row<Avx2Rotation>};

}  // namespace manylora

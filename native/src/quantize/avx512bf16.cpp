#include <immintrin.h>

#include "vector.h"

namespace manylora {
namespace {

struct Avx512Rotation {
  static constexpr int64_t kLanes = 16;
  using Floats = __m512;
  using Bits = __m512i;

  static Floats set(float value) { return _mm512_set1_ps(value); }
  static Floats load(const float* from) { return _mm512_load_ps(from); }
  static void store(float* to, Floats value) { _mm512_store_ps(to, value); }
  static Floats load_bf16(const bf16* from) {
    const __m256i values = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
  }
  // other + x, but other - x in the lanes of `minus`. Times +1 or -1 is exact: the fused operation rounds as the addition does.
  static Floats turn(Floats x, __mmask16 minus, Floats other) {
    return _mm512_fmadd_ps(x, _mm512_mask_blend_ps(minus, _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f)), other);
  }
  // Distances 8, 4, 2, 1.
  static Floats rotate_lanes(Floats x) {
    x = turn(x, 0xff00, _mm512_shuffle_f32x4(x, x, 0x4e));
    x = turn(x, 0xf0f0, _mm512_shuffle_f32x4(x, x, 0xb1));
    x = turn(x, 0xcccc, _mm512_permute_ps(x, 0x4e));
    return turn(x, 0xaaaa, _mm512_permute_ps(x, 0xb1));
  }
  static Bits magnitude(Floats x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)); }
  static Bits larger(Bits a, Bits b) { return _mm512_max_epu32(a, b); }
  static uint32_t highest(Bits value) { return _mm512_reduce_max_epu32(value); }
  static void store_rounded(uint8_t* to, Floats x) {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x));
    const __m128i offset = _mm_set1_epi8(static_cast<char>(kInt8Zero));
    _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm_xor_si128(bytes, offset));
  }
};

}  // namespace

const QuantizeKernels quantize_avx512bf16{quantize_row<Avx512Rotation>};

}  // namespace manylora

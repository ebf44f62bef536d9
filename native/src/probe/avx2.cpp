#include <immintrin.h>

#include "manylora/probe.h"

namespace manylora {
namespace {

constexpr int kChains = 12;

// Tells the compiler that these may be any values, and all be needed: equal chains would be computed once.
template <class Vector>
[[gnu::always_inline]] inline void keep(Vector (&values)[kChains]) {
  for (Vector& value : values) asm volatile("" : "+x"(value));
}

uint64_t read(const std::byte* at, int64_t bytes) {
  const auto* vectors = reinterpret_cast<const __m256i*>(at);
  __m256i sum[4] = {};
  for (int64_t i = 0; i < bytes / 32; i += 4) {
    for (int c = 0; c < 4; ++c) sum[c] = _mm256_xor_si256(sum[c], _mm256_load_si256(vectors + i + c));
  }
  alignas(32) uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words),
                     _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3])));
  return words[0] ^ words[1] ^ words[2] ^ words[3];
}

int64_t fp32_products(int64_t rounds) {
  __m256 x = _mm256_set1_ps(0.5f), sum[kChains] = {};
  keep(sum);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sum[c] = _mm256_fmadd_ps(sum[c], x, x);
  }
  keep(sum);
  return 2 * 8 * kChains * rounds;
}

int64_t int16_products(int64_t rounds) {
  __m256i x = _mm256_set1_epi16(3), sum[kChains] = {};
  keep(sum);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      asm volatile("" : "+x"(x));  // or it would be one product for all rounds
      sum[c] = _mm256_add_epi32(sum[c], _mm256_madd_epi16(x, x));
    }
  }
  keep(sum);
  return 2 * 16 * kChains * rounds;
}

}  // namespace

const ProbeKernels probe_avx2{read, fp32_products, int16_products};

}  // namespace manylora

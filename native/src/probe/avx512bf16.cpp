#include <immintrin.h>

#include "manylora/probe.h"
#include "read512.h"

namespace manylora {
namespace {

constexpr int kChains = 16;

// Tells the compiler that these may be any values, and all be needed: equal chains would be computed once.
template <class Vector>
[[gnu::always_inline]] inline void keep(Vector (&values)[kChains]) {
  for (Vector& value : values) asm volatile("" : "+v"(value));
}

int64_t bf16_products(int64_t rounds) {
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.25f));
  __m512 sum[kChains] = {};
  keep(sum);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbf16_ps(sum[c], x, x);
  }
  keep(sum);
  return 2 * 32 * kChains * rounds;
}

// Every CPU with vdpbf16ps has vpdpbusd too.
[[gnu::target("avx512vnni")]] int64_t int8_products(int64_t rounds) {
  const __m512i x = _mm512_set1_epi8(3);
  __m512i sum[kChains] = {};
  keep(sum);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbusd_epi32(sum[c], x, x);
  }
  keep(sum);
  return 2 * 64 * kChains * rounds;
}

}  // namespace

const ProbeKernels probe_avx512bf16{read512, bf16_products, int8_products};

}  // namespace manylora

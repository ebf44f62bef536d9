// Reads by AVX-512. In an anonymous namespace: each file has its own copy.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace manylora {
namespace {

inline uint64_t read512(const std::byte* at, int64_t bytes) {
  __m512i sum[8] = {};
  for (const std::byte* stop = at + bytes; at < stop; at += sizeof sum) {
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) sum[c] = _mm512_xor_si512(sum[c], _mm512_load_si512(at + 64 * c));
  }
  for (int c = 1; c < 8; ++c) sum[0] = _mm512_or_si512(sum[0], sum[c]);
  return static_cast<uint64_t>(_mm512_reduce_or_epi64(sum[0]));
}

}  // namespace
}  // namespace manylora

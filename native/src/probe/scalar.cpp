#include "manylora/probe.h"

namespace manylora {
namespace {

constexpr int kChains = 8;  // more than the latency of an addition

uint64_t read(const std::byte* at, int64_t bytes) {
  const auto* words = reinterpret_cast<const uint64_t*>(at);
  uint64_t sum[4] = {};
  for (int64_t i = 0; i < bytes / 8; i += 4) {
    for (int c = 0; c < 4; ++c) sum[c] ^= words[i + c];
  }
  return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

template <class Number>
int64_t products(int64_t rounds) {
  volatile Number given = 3;
  Number sum[kChains];
  for (Number& value : sum) value = given;  // read each time: the compiler would compute equal chains once
  const Number factor = given;
  for (int64_t round = 0; round < rounds; ++round) {
    for (int c = 0; c < kChains; ++c) sum[c] = sum[c] * factor + factor;
  }
  for (const Number value : sum) given = value;
  return 2 * kChains * rounds;
}

}  // namespace

const ProbeKernels probe_scalar{read, products<float>, products<uint32_t>};

}  // namespace manylora

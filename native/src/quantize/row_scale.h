// From the largest magnitude of a row to its scale: shared by all instruction sets, inlined into each.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace manylora {
namespace {

struct RowScale {
  float scale;
  float inverse;  // 0: all q are 0
};

// `largest`: of the bits of the magnitudes, which order as the magnitudes do, NaN last.
inline RowScale row_scale(uint32_t largest) {
  constexpr uint32_t kInfinity = 0x7f800000, kSmallest = 0x03800000;  // 2^-120
  if (largest >= kInfinity) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  if (largest < kSmallest) return {0.0f, 0.0f};
  const float magnitude = std::bit_cast<float>(largest);
  return {magnitude / 127.0f, 127.0f / magnitude};
}

}  // namespace
}  // namespace manylora

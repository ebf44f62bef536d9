// bfloat16 as storage: the upper half of a float32. Rounding is to nearest, ties to even, everywhere.
#pragma once

#include <bit>
#include <cstdint>

namespace manylora {

using bf16 = uint16_t;

// Always inlined: a copy compiled for one instruction set must never be linked into code for another.
[[gnu::always_inline]] inline float to_float(bf16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

// Round to nearest even. NaN stays NaN. Equal to vcvtneps2bf16 for every normal number.
[[gnu::always_inline]] inline bf16 to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16>((bits >> 16) | 0x40u);
  return static_cast<bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace manylora

// Rotation and rounding over vectors V.
#pragma once

#include <cstdint>
#include <cstring>

#include "manylora/quantize.h"
#include "row_scale.h"

namespace manylora {
namespace {

// One block of x, of which `count` elements exist. `largest` grows to its magnitudes' bits.
template <class V>
[[gnu::always_inline]] inline void rotate(const bf16* x, int64_t count, float* rotated, typename V::Bits& largest) {
  constexpr int64_t kParts = kRotation / V::kLanes;
  bf16 last[kRotation];
  if (count < kRotation) {  // what lies behind x is not read
    std::memset(last, 0, sizeof last);
    std::memcpy(last, x, static_cast<size_t>(count) * sizeof(bf16));
    x = last;
  }
  typename V::Floats part[kParts];
#pragma GCC unroll 8
  for (int64_t i = 0; i < kParts; ++i) part[i] = V::load_bf16(x + i * V::kLanes);
#pragma GCC unroll 4
  for (int64_t distance = kParts / 2; distance > 0; distance /= 2) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kParts; ++i) {
      if ((i & distance) != 0) continue;
      const auto a = part[i], b = part[i + distance];
      part[i] = a + b;
      part[i + distance] = a - b;
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < kParts; ++i) {
    part[i] = V::rotate_lanes(part[i]);
    largest = V::larger(largest, V::magnitude(part[i]));
    V::store(rotated + i * V::kLanes, part[i]);
  }
}

template <class V>
void quantize_row(const bf16* x, int64_t depth, float* rotated, uint8_t* q, float* scale) {
  const int64_t padded = padded_depth(depth);
  typename V::Bits largest{};
  for (int64_t k = 0; k < padded; k += kRotation) {
    rotate<V>(x + k, depth - k < kRotation ? depth - k : kRotation, rotated + k, largest);
  }
  const RowScale found = row_scale(V::highest(largest));
  *scale = found.scale;
  if (found.inverse == 0.0f) {
    std::memset(q, kInt8Zero, static_cast<size_t>(padded));
    return;
  }
  for (int64_t k = 0; k < padded; k += V::kLanes) V::store_rounded(q + k, V::load(rotated + k) * V::set(found.inverse));
}

}  // namespace
}  // namespace manylora

// The specification of RMS norm's sum, which rotary embedding shares.
#pragma once

#include <cmath>
#include <cstdint>

namespace manylora {
namespace {

// 1 / sqrt(mean(x^2) + eps).
inline float inverse_rms_scalar(const float* x, int64_t columns, float eps) {
  float sums[4] = {};
  for (int64_t i = 0; i < columns; ++i) sums[i % 4] += x[i] * x[i];
  const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return 1.0f / std::sqrt(sum / static_cast<float>(columns) + eps);
}

}  // namespace
}  // namespace manylora

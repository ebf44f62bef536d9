// RMS norm over vectors V.
#pragma once

#include <cmath>
#include <cstdint>

#include "manylora/bfloat16.h"

namespace manylora {
namespace {

// 1 / sqrt(mean(x^2) + eps).
template <class V>
float inverse_rms(const float* x, int64_t columns, float eps) {
  constexpr int64_t kStep = 4 * V::kLanes;
  typename V::Floats sums[4] = {V::set(0.0f), V::set(0.0f), V::set(0.0f), V::set(0.0f)};
  int64_t i = 0;
  for (; i + kStep <= columns; i += kStep) {
    for (int64_t j = 0; j < 4; ++j) {
      const auto value = V::load(x + i + j * V::kLanes);
      sums[j] = V::fma(value, value, sums[j]);
    }
  }
  for (int64_t j = 0; i < columns; ++j, i += V::kLanes) {
    const auto value = V::load(x + i, V::first(columns - i));
    sums[j] = V::fma(value, value, sums[j]);
  }
  const float sum = V::sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  return 1.0f / std::sqrt(sum / static_cast<float>(columns) + eps);
}

template <class V>
void rms_norm_row(const float* x, const float* weight, float eps, int64_t columns, bf16* y) {
  const auto scale = V::set(inverse_rms<V>(x, columns, eps));
  for (int64_t i = 0; i < columns; i += V::kLanes) {
    const auto lanes = V::first(columns - i);
    V::store_bf16(y + i, V::load(x + i, lanes) * scale * V::load(weight + i, lanes), lanes);
  }
}

}  // namespace
}  // namespace manylora

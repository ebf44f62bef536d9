// Reductions over the vocabulary over vectors V.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "../vector/exp.h"
#include "manylora/sampling.h"

namespace manylora {
namespace {

template <class V>
Highest highest(const float* x, int64_t count) {
  constexpr int64_t kStep = 4 * V::kLanes;
  const auto nothing = V::set(-std::numeric_limits<float>::infinity());
  typename V::Floats found[4] = {nothing, nothing, nothing, nothing};
  uint32_t numbers = ~0u;  // lanes that never held a NaN
  const auto look = [&](typename V::Floats& best, typename V::Floats value) {
    numbers &= V::bits(V::equal(value, value));
    best = V::max(value, best);  // the second if one is NaN
  };
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (int64_t j = 0; j < 4; ++j) look(found[j], V::load(x + i + j * V::kLanes));
  }
  for (; i < count; i += V::kLanes) {
    const auto lanes = V::first(count - i);
    look(found[0], V::blend(lanes, V::load(x + i, lanes), nothing));
  }
  const uint32_t all = V::bits(V::first(V::kLanes));
  return {V::highest(V::max(V::max(found[0], found[1]), V::max(found[2], found[3]))), (numbers & all) != all};
}

template <class V>
int64_t find(const float* x, int64_t count, float value) {
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const auto lanes = V::first(count - i);
    const uint32_t equal = V::bits(V::equal(V::load(x + i, lanes), V::set(value))) & V::bits(lanes);
    if (equal != 0) return i + std::countr_zero(equal);
  }
  return -1;
}

template <class V>
[[gnu::always_inline]] inline typename V::Floats weight_of(typename V::Floats x, float highest, float temperature) {
  return exp_vector<V>((x - V::set(highest)) / V::set(temperature));
}

template <class V>
void weigh(const float* x, int64_t count, float highest, float temperature, float* weights) {
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const auto lanes = V::first(count - i);
    V::store(weights + i, weight_of<V>(V::load(x + i, lanes), highest, temperature), lanes);
  }
}

template <class V>
float sum_weights(const float* x, int64_t count, float highest, float temperature, float floor) {
  const auto zero = V::set(0.0f);
  typename V::Floats sums[2] = {zero, zero};
  for (int64_t i = 0; i < count; i += 2 * V::kLanes) {
    for (int64_t j = 0; j < 2; ++j) {
      const auto lanes = V::first(count - i - j * V::kLanes);
      const auto weight = weight_of<V>(V::load(x + i + j * V::kLanes, lanes), highest, temperature);
      const auto kept = V::blend(V::less(weight, V::set(floor)), zero, weight);
      sums[j] = sums[j] + V::blend(lanes, kept, zero);
    }
  }
  return V::sum(sums[0] + sums[1]);
}

template <class V>
int64_t collect(const float* x, int64_t count, float threshold, uint32_t* to) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const auto lanes = V::first(count - i);
    uint32_t kept = V::bits(lanes) & ~V::bits(V::less(V::load(x + i, lanes), V::set(threshold)));
    for (; kept != 0; kept &= kept - 1) to[found++] = static_cast<uint32_t>(i + std::countr_zero(kept));
  }
  return found;
}

}  // namespace
}  // namespace manylora

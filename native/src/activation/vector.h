// Gated activation over vectors V.
#pragma once

#include "../vector/exp.h"
#include "manylora/bfloat16.h"

namespace manylora {
namespace {

template <class V>
void silu_multiply_row(const float* gate, const float* up, int64_t columns, bf16* y) {
  for (int64_t i = 0; i < columns; i += V::kLanes) {
    const auto lanes = V::first(columns - i);
    const auto g = V::load(gate + i, lanes);
    const auto silu = g / (V::set(1.0f) + exp_vector<V>(V::set(0.0f) - g));
    V::store_bf16(y + i, silu * V::load(up + i, lanes), lanes);
  }
}

}  // namespace
}  // namespace manylora

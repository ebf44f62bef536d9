// Rotary embedding of one head over vectors V.
#pragma once

#include "../norm/vector.h"
#include "manylora/rotary.h"

namespace manylora {
namespace {

template <class V>
void rotate_head(const RotaryHead& head, bf16* y) {
  const int64_t half = head.head_dim / 2;
  const auto scale = V::set(head.norm ? inverse_rms<V>(head.x, head.head_dim, head.eps) : 1.0f);
  for (int64_t i = 0; i < half; i += V::kLanes) {
    const auto lanes = V::first(half - i);
    auto low = V::load(head.x + i, lanes);
    auto high = V::load(head.x + half + i, lanes);
    if (head.norm) {
      low = low * scale * V::load(head.norm + i, lanes);
      high = high * scale * V::load(head.norm + half + i, lanes);
    }
    const auto cosine = V::load(head.cosine + i, lanes);
    const auto sine = V::load(head.sine + i, lanes);
    V::store_bf16(y + i, low * cosine - high * sine, lanes);
    V::store_bf16(y + half + i, high * cosine + low * sine, lanes);
  }
}

template <class V>
void round_row(const float* x, int64_t columns, bf16* y) {
  for (int64_t i = 0; i < columns; i += V::kLanes) {
    const auto lanes = V::first(columns - i);
    V::store_bf16(y + i, V::load(x + i, lanes), lanes);
  }
}

}  // namespace
}  // namespace manylora

// bf16 to float32 over vectors V.
#pragma once

#include "manylora/bfloat16.h"

namespace manylora {
namespace {

template <class V>
void widen_row(const bf16* from, int64_t columns, float* to) {
  for (int64_t i = 0; i < columns; i += V::kLanes) {
    const auto lanes = V::first(columns - i);
    V::store(to + i, V::load_bf16(from + i, lanes), lanes);
  }
}

}  // namespace
}  // namespace manylora

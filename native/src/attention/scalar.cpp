#include <algorithm>
#include <cmath>
#include <limits>

#include "../vector/exp.h"
#include "manylora/attention.h"

namespace manylora {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// One query vector and where its K and V are.
struct Vector {
  const bf16* q;
  const bf16* kv;  // its K/V head in block 0
  int64_t position;
};

Vector vector_at(const AttentionTile& tile, int64_t index) {
  const int64_t kv_head = index / (tile.rows * tile.group);
  const int64_t row = index / tile.group % tile.rows;
  const int64_t head = kv_head * tile.group + index % tile.group;
  return {tile.q + row * tile.q_stride + head * tile.head_dim, tile.kv + kv_head * 2 * kBlockTokens * tile.head_dim,
          tile.first_position + row};
}

// K of the vector's head in the block that holds `token`; V follows.
const bf16* block_of(const AttentionTile& tile, const Vector& vector, int64_t token) {
  return vector.kv + tile.blocks[token / kBlockTokens] * tile.block_elements;
}

float score(const AttentionTile& tile, const Vector& vector, int64_t token) {
  const bf16* key = block_of(tile, vector, token) + token % kBlockTokens * 2;
  float sum = 0.0f;
  for (int64_t i = 0; i < tile.head_dim; i += 2, key += kBlockTokens * 2) {
    sum += to_float(vector.q[i]) * to_float(key[0]);
    sum += to_float(vector.q[i + 1]) * to_float(key[1]);
  }
  return sum * tile.scale;
}

void attend_group(const AttentionTile& tile, const Vector& vector, int64_t start, float& maximum, float& sum, float* output) {
  const int64_t visible = std::min(kGroupTokens, vector.position - start + 1);
  float weights[kGroupTokens];
  float highest = maximum;
  for (int64_t t = 0; t < visible; ++t) {
    weights[t] = score(tile, vector, start + t);
    highest = std::max(highest, weights[t]);
  }
  const float correction = exp_scalar(maximum - highest);
  maximum = highest;
  sum *= correction;
  for (int64_t i = 0; i < tile.head_dim; ++i) output[i] *= correction;
  for (int64_t t = 0; t < visible; ++t) {
    const float weight = exp_scalar(weights[t] - maximum);
    const int64_t token = start + t;
    const bf16* values = block_of(tile, vector, token) + kBlockTokens * tile.head_dim;  // [token pair][head_dim][2]
    const bf16* value = values + token % kBlockTokens / 2 * tile.head_dim * 2 + token % 2;
    sum += weight;
    for (int64_t i = 0; i < tile.head_dim; ++i) output[i] += weight * to_float(value[i * 2]);
  }
}

void attend(const AttentionTile& tile, int64_t first_token, const AttentionState& state) {
  for (int64_t index = 0; index < tile.vectors(); ++index) {
    const Vector vector = vector_at(tile, index);
    if (vector.position < first_token) continue;
    float* output = state.output + index * tile.head_dim;
    state.maximum[index] = kNothing;
    state.sum[index] = 0.0f;
    std::fill_n(output, tile.head_dim, 0.0f);
    const int64_t stop = std::min(first_token + kPartitionTokens, vector.position + 1);
    for (int64_t start = first_token; start < stop; start += kGroupTokens) {
      attend_group(tile, vector, start, state.maximum[index], state.sum[index], output);
    }
  }
}

void merge(const AttentionTile& tile, int64_t first_token, const AttentionState& part, const AttentionState& merged) {
  for (int64_t index = 0; index < tile.vectors(); ++index) {
    if (vector_at(tile, index).position < first_token) continue;
    const float maximum = std::max(merged.maximum[index], part.maximum[index]);
    const float old = exp_scalar(merged.maximum[index] - maximum);
    const float fresh = exp_scalar(part.maximum[index] - maximum);
    merged.maximum[index] = maximum;
    merged.sum[index] = merged.sum[index] * old + part.sum[index] * fresh;
    for (int64_t i = index * tile.head_dim; i < (index + 1) * tile.head_dim; ++i) {
      merged.output[i] = merged.output[i] * old + part.output[i] * fresh;
    }
  }
}

void finish(const AttentionTile& tile, const AttentionState& state, bf16* y, int64_t y_stride) {
  for (int64_t index = 0; index < tile.vectors(); ++index) {
    const int64_t kv_head = index / (tile.rows * tile.group);
    const int64_t row = index / tile.group % tile.rows;
    bf16* to = y + row * y_stride + (kv_head * tile.group + index % tile.group) * tile.head_dim;
    const float inverse = 1.0f / state.sum[index];
    for (int64_t i = 0; i < tile.head_dim; ++i) to[i] = to_bf16(state.output[index * tile.head_dim + i] * inverse);
  }
}

}  // namespace

const AttentionKernels attention_scalar = {32, attend, merge, finish};

}  // namespace manylora

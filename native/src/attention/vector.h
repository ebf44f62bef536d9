// Attention over vectors V. A group's work is three passes over some query vectors of one K/V head: scores, weights, values.
// How many query vectors share the registers is a matter of speed: every output is a chain of its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../vector/exp.h"
#include "manylora/attention.h"

namespace manylora {
namespace {

template <class V>
struct Attention {
  using Floats = typename V::Floats;
  using Operand = typename V::Operand;
  static constexpr int64_t kLanes = V::kLanes;
  static constexpr int kSlices = static_cast<int>(kGroupTokens / kLanes);       // vectors of one group's tokens
  static constexpr int kScoreVectors = kLanes == 16 ? 8 : 3;                    // query vectors at once: scores
  static constexpr int kValueVectors = kLanes == 16 ? 6 : 4;                    // and values,
  static constexpr int kValueSlices = kLanes == 16 ? 4 : 2;                     // times vectors of dimensions

  const AttentionTile& tile;
  const AttentionState& state;
  alignas(64) Operand q[kTileElements];                       // [vectors, head_dim]
  alignas(64) Operand weights[kTileVectors * kGroupTokens];   // [vectors, 32]
  alignas(64) float scores[kTileVectors * kGroupTokens];      // [vectors, 32]
  alignas(64) float sums[kTileVectors * kLanes];              // [vectors, lanes]
  alignas(64) float corrections[kTileVectors];

  // Tokens [start, start + visible) of one K/V head.
  struct Group {
    const bf16* keys[2];
    const bf16* values[2];
    int64_t visible;
  };

  Attention(const AttentionTile& of, const AttentionState& into) : tile(of), state(into) {}

  void run(int64_t first_token) {
    const int64_t rows = tile.rows, group = tile.group;
    begin(tile.first_row_at(first_token));
    const int64_t stop = std::min(first_token + kPartitionTokens, tile.first_position + rows);
    for (int64_t start = first_token; start < stop; start += kGroupTokens) {
      const int64_t partial = tile.first_row_at(start);                   // rows that see some of the group
      const int64_t whole = tile.first_row_at(start + kGroupTokens - 1);  // rows that see all of it
      for (int64_t head = 0; head < tile.kv_heads; ++head) {
        Group tokens = group_at(head, start, stop);
        for (int64_t row = partial; row < whole; ++row) {
          tokens.visible = tile.first_position + row - start + 1;
          step(tokens, (head * rows + row) * group, group);
        }
        tokens.visible = kGroupTokens;
        if (whole < rows) step(tokens, (head * rows + whole) * group, (rows - whole) * group);
      }
    }
    end(tile.first_row_at(first_token));
  }

 protected:
  // Fetches the queries of the rows from `row` on and empties their state.
  void begin(int64_t first_row) {
    const int64_t elements = tile.group * tile.head_dim;
    for (int64_t head = 0; head < tile.kv_heads; ++head) {
      for (int64_t row = first_row; row < tile.rows; ++row) {
        const int64_t index = (head * tile.rows + row) * tile.group;
        V::copy_operands(q + index * tile.head_dim, tile.q + row * tile.q_stride + head * elements, elements);
        std::fill_n(state.output + index * tile.head_dim, elements, 0.0f);
        std::fill_n(sums + index * kLanes, tile.group * kLanes, 0.0f);
        std::fill_n(state.maximum + index, tile.group, -std::numeric_limits<float>::infinity());
      }
    }
  }

  // The sums of the rows from `first_row` on.
  void end(int64_t first_row) {
    for (int64_t head = 0; head < tile.kv_heads; ++head) {
      for (int64_t i = (head * tile.rows + first_row) * tile.group; i < (head + 1) * tile.rows * tile.group; ++i) {
        state.sum[i] = V::sum(V::load(sums + i * kLanes));
      }
    }
  }

  // The second block is not looked up when no row of the tile sees it: its entry may not exist.
  Group group_at(int64_t head, int64_t start, int64_t stop) const {
    const int32_t* blocks = tile.blocks + start / kBlockTokens;
    const bf16* kv = tile.kv + head * 2 * kBlockTokens * tile.head_dim;
    const bf16* first = kv + blocks[0] * tile.block_elements;
    const bf16* second = start + kBlockTokens < stop ? kv + blocks[1] * tile.block_elements : first;
    const int64_t to_values = kBlockTokens * tile.head_dim;
    return {{first, second}, {first + to_values, second + to_values}, 0};
  }

  void step(const Group& group, int64_t first, int64_t count) {
    score<kScoreVectors>(group, first, count);
    for (int64_t i = first; i < first + count; ++i) weigh(i, group.visible);
    value_dimensions<kValueSlices>(group, first, count, 0);
  }

  // ---- scores: q K for N query vectors at a time
  template <int N>
  void score(const Group& group, int64_t first, int64_t count) {
    for (; count >= N; first += N, count -= N) score_vectors<N>(group, q + first * tile.head_dim, scores + first * kGroupTokens);
    if constexpr (N > 1) {
      if (count > 0) score<N - 1>(group, first, count);
    }
  }

  template <int N>
  [[gnu::noinline]] void score_vectors(const Group& group, const Operand* query, float* to) const {
    const int64_t head_dim = tile.head_dim;
    Floats sum[N][kSlices];
    for (int n = 0; n < N; ++n) {
      for (int s = 0; s < kSlices; ++s) sum[n][s] = V::set(0.0f);
    }
    for (int64_t i = 0; i < head_dim; i += 2) {
      for (int s = 0; s < kSlices; ++s) {
        const auto keys = V::load_pairs(group.keys[s * 2 / kSlices] + i * kBlockTokens + s % (kSlices / 2) * kLanes * 2);
        for (int n = 0; n < N; ++n) sum[n][s] = V::dot(sum[n][s], keys, query + n * head_dim + i);
      }
    }
    for (int n = 0; n < N; ++n) {
      for (int s = 0; s < kSlices; ++s) V::store(to + n * kGroupTokens + s * kLanes, sum[n][s]);
    }
  }

  // ---- weights: e^(score - maximum), what the old output is worth, and the sum
  void weigh(int64_t index, int64_t visible) {
    Floats score[kSlices];
    for (int s = 0; s < kSlices; ++s) {
      const Floats scaled = V::load(scores + index * kGroupTokens + s * kLanes) * V::set(tile.scale);
      score[s] = V::blend(V::first(visible - s * kLanes), scaled, V::set(-std::numeric_limits<float>::infinity()));
    }
    Floats highest = V::max(score[0], score[1]);
    for (int s = 2; s < kSlices; ++s) highest = V::max(score[s], highest);
    const float old = state.maximum[index];
    const float maximum = std::max(old, V::highest(highest));
    // e^0 is exactly 1: skipping it changes no bit.
    corrections[index] = maximum == old ? 1.0f : V::lowest_lane(exp_vector<V>(V::set(old - maximum)));
    state.maximum[index] = maximum;
    Floats sum = V::set(0.0f);
    for (int s = 0; s < kSlices; ++s) {
      const Floats weight = exp_vector<V>(score[s] - V::set(maximum));
      V::store_operands(weights + index * kGroupTokens + s * kLanes, weight);
      sum = sum + V::as_operands(weight);
    }
    const Floats before = V::load(sums + index * kLanes) * V::set(corrections[index]);
    V::store(sums + index * kLanes, before + sum);
  }

  // ---- values: output = output * correction + weights V, for N query vectors and D vectors of dimensions at a time
  template <int D>
  void value_dimensions(const Group& group, int64_t first, int64_t count, int64_t dimension) {
    for (; dimension + D * kLanes <= tile.head_dim; dimension += D * kLanes) {
      value<kValueVectors, D>(group, first, count, dimension);
    }
    if constexpr (D > 1) {
      if (dimension < tile.head_dim) value_dimensions<D - 1>(group, first, count, dimension);
    }
  }

  template <int N, int D>
  void value(const Group& group, int64_t first, int64_t count, int64_t dimension) {
    for (; count >= N; first += N, count -= N) value_vectors<N, D>(group, first, dimension);
    if constexpr (N > 1) {
      if (count > 0) value<N - 1, D>(group, first, count, dimension);
    }
  }

  template <int N, int D>
  [[gnu::noinline]] void value_vectors(const Group& group, int64_t first, int64_t dimension) {
    const int64_t head_dim = tile.head_dim;
    const Operand* weight = weights + first * kGroupTokens;
    float* output = state.output + first * head_dim + dimension;
    Floats sum[N][D];
    for (int n = 0; n < N; ++n) {
      for (int d = 0; d < D; ++d) sum[n][d] = V::load(output + n * head_dim + d * kLanes) * V::set(corrections[first + n]);
    }
    const int64_t pairs = group.visible / 2;
    for (int64_t t = 0; t < pairs; ++t) {
      const bf16* values = group.values[t / 8] + (t % 8 * head_dim + dimension) * 2;
      for (int d = 0; d < D; ++d) {
        const auto pair = V::load_pairs(values + d * kLanes * 2);
        for (int n = 0; n < N; ++n) sum[n][d] = V::dot(sum[n][d], pair, weight + n * kGroupTokens + t * 2);
      }
    }
    if (group.visible % 2 != 0) {  // the pair's other token is not visible: its V is zero, whatever the page holds
      const bf16* values = group.values[pairs / 8] + (pairs % 8 * head_dim + dimension) * 2;
      for (int d = 0; d < D; ++d) {
        const auto pair = V::load_first_of_pairs(values + d * kLanes * 2);
        for (int n = 0; n < N; ++n) sum[n][d] = V::dot(sum[n][d], pair, weight + n * kGroupTokens + pairs * 2);
      }
    }
    for (int n = 0; n < N; ++n) {
      for (int d = 0; d < D; ++d) V::store(output + n * head_dim + d * kLanes, sum[n][d]);
    }
  }
};

template <class V>
void attend(const AttentionTile& tile, int64_t first_token, const AttentionState& state) {
  Attention<V>(tile, state).run(first_token);
}

template <class V>
void merge(const AttentionTile& tile, int64_t first_token, const AttentionState& part, const AttentionState& merged) {
  const int64_t first_row = tile.first_row_at(first_token);
  for (int64_t head = 0; head < tile.kv_heads; ++head) {
    for (int64_t i = (head * tile.rows + first_row) * tile.group; i < (head + 1) * tile.rows * tile.group; ++i) {
      const float maximum = std::max(merged.maximum[i], part.maximum[i]);
      const auto old = exp_vector<V>(V::set(merged.maximum[i] - maximum));
      const auto fresh = exp_vector<V>(V::set(part.maximum[i] - maximum));
      merged.maximum[i] = maximum;
      merged.sum[i] = V::lowest_lane(V::set(merged.sum[i]) * old + V::set(part.sum[i]) * fresh);
      float* to = merged.output + i * tile.head_dim;
      const float* from = part.output + i * tile.head_dim;
      for (int64_t j = 0; j < tile.head_dim; j += V::kLanes) {
        V::store(to + j, V::load(to + j) * old + V::load(from + j) * fresh);
      }
    }
  }
}

template <class V>
void finish(const AttentionTile& tile, const AttentionState& state, bf16* y, int64_t y_stride) {
  const auto lanes = V::first(V::kLanes);
  for (int64_t head = 0; head < tile.kv_heads; ++head) {
    for (int64_t row = 0; row < tile.rows; ++row) {
      for (int64_t g = 0; g < tile.group; ++g) {
        const int64_t index = (head * tile.rows + row) * tile.group + g;
        const auto inverse = V::set(1.0f / state.sum[index]);
        const float* from = state.output + index * tile.head_dim;
        bf16* to = y + row * y_stride + (head * tile.group + g) * tile.head_dim;
        for (int64_t j = 0; j < tile.head_dim; j += V::kLanes) V::store_bf16(to + j, V::load(from + j) * inverse, lanes);
      }
    }
  }
}

}  // namespace
}  // namespace manylora

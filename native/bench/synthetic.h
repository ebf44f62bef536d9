// Made-up weights, adapters and steps of Llama-like models: the values are noise, the shapes are real.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "manylora/batch.h"
#include "manylora/bfloat16.h"
#include "manylora/linear.h"
#include "manylora/lora.h"
#include "manylora/memory.h"
#include "manylora/runtime.h"

namespace manylora::bench {

struct ModelShape {
  const char* name;
  int64_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary;

  int64_t q_columns() const { return heads * head_dim; }
  int64_t kv_columns() const { return kv_heads * head_dim; }
};

// One of the four fused products of a layer, or the head.
struct Site {
  const char* name;
  std::vector<int64_t> columns;  // of its parts
  int64_t depth;

  int64_t all_columns() const { return std::accumulate(columns.begin(), columns.end(), int64_t{0}); }
};

constexpr int64_t kSites = 4;  // of a layer

inline std::vector<Site> sites_of(const ModelShape& shape) {
  return {{"qkv", {shape.q_columns(), shape.kv_columns(), shape.kv_columns()}, shape.hidden},
          {"output", {shape.hidden}, shape.q_columns()},
          {"gate_up", {shape.intermediate, shape.intermediate}, shape.hidden},
          {"down", {shape.hidden}, shape.intermediate}};
}

inline Site head_of(const ModelShape& shape) { return {"lm_head", {shape.vocabulary}, shape.hidden}; }

// Uniform values in [-1, 1), the same ones in every run.
class Noise {
 public:
  float next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<int32_t>(state_ >> 32)) * 0x1p-31f;
  }
  void fill(bf16* values, int64_t count, float scale = 1.0f) {
    for (int64_t i = 0; i < count; ++i) values[i] = to_bf16(next() * scale);
  }
  void fill(Matrix& matrix, float scale = 1.0f) {
    const int64_t count = matrix.rows() * matrix.stride();
    if (matrix.dtype() == Dtype::bfloat16) return fill(matrix.bf16s(), count, scale);
    for (int64_t i = 0; i < count; ++i) matrix.floats()[i] = next() * scale;
  }

 private:
  uint64_t state_ = 1;
};

inline Linear make_linear(Runtime& runtime, const Site& site, Quantization quantization, Noise& noise) {
  std::vector<bf16> values(static_cast<size_t>(site.all_columns() * site.depth));
  noise.fill(values.data(), static_cast<int64_t>(values.size()), 0.05f);
  std::vector<WeightPart> parts;
  const bf16* weight = values.data();
  for (int64_t columns : site.columns) {
    parts.push_back({weight, columns, nullptr});
    weight += columns * site.depth;
  }
  return Linear(runtime, parts, site.depth, quantization);
}

// The weights of all layers, kSites each.
inline std::vector<Linear> make_layers(Runtime& runtime, const ModelShape& shape, Quantization quantization, Noise& noise) {
  std::vector<Linear> weights;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (const Site& site : sites_of(shape)) weights.push_back(make_linear(runtime, site, quantization, noise));
  }
  return weights;
}

// An adapter of one rank on all projections. Its packed bytes need no meaning, only values.
struct Resident {
  Resident(const std::vector<Linear>& layers, int64_t rank_, Noise& noise)
      : rank(rank_), arena(bytes_for(layers, rank_)), adapter(arena) {
    noise.fill(reinterpret_cast<bf16*>(arena.data()), static_cast<int64_t>(arena.bytes()) / 2, 0.05f);
    int64_t offset = 0;
    for (size_t site = 0; site < layers.size(); ++site) {
      for (size_t part = 0; part < layers[site].part_columns().size(); ++part) {
        const int64_t b = offset + lora_a_bytes(rank, layers[site].depth());
        adapter.set(static_cast<int64_t>(site), static_cast<int64_t>(part), {rank, 0.5f, offset, b, -1, -1});
        offset = b + lora_b_bytes(rank, layers[site].part_columns()[part], layers[site].width());
      }
    }
  }
  Resident(const Resident&) = delete;
  Resident& operator=(const Resident&) = delete;

  static size_t bytes_for(const std::vector<Linear>& layers, int64_t rank) {
    int64_t bytes = 0;
    for (const Linear& weight : layers) {
      for (int64_t columns : weight.part_columns()) {
        bytes += lora_a_bytes(rank, weight.depth()) + lora_b_bytes(rank, columns, weight.width());
      }
    }
    return static_cast<size_t>(bytes);
  }

  int64_t rank;
  Memory arena;
  Adapter adapter;
};

// The new rows of one sequence, the last of them at position context - 1.
struct Chunk {
  int64_t rows, context;
};

// A batch of these sequences, blocks scattered over `blocks`. Sizes are exact: nothing is left over.
class Step {
 public:
  explicit Step(const std::vector<Chunk>& chunks)
      : blocks_each(most_blocks(chunks)),
        blocks(static_cast<int64_t>(chunks.size()) * blocks_each),
        batch(all_rows(chunks), static_cast<int64_t>(chunks.size()), static_cast<int64_t>(chunks.size()), blocks_each) {
    std::vector<int32_t> ids(static_cast<size_t>(blocks));
    std::iota(ids.begin(), ids.end(), 0);
    std::minstd_rand random{1};
    for (size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[random() % i]);
    std::copy(ids.begin(), ids.end(), batch.block_tables());
    int32_t row = 0;
    for (size_t s = 0; s < chunks.size(); ++s) {
      batch.sequence_slots()[s] = static_cast<int32_t>(s);
      for (int64_t r = 0; r < chunks[s].rows; ++r, ++row) {
        batch.positions()[row] = static_cast<int32_t>(chunks[s].context - chunks[s].rows + r);
        batch.token_ids()[row] = row * 7;
      }
      batch.sequence_starts()[s + 1] = row;
      batch.gather_rows()[s] = row - 1;  // the sequence's last
    }
    batch.begin(row, static_cast<int64_t>(chunks.size()));
  }

  static int64_t all_rows(const std::vector<Chunk>& chunks) {
    return std::accumulate(chunks.begin(), chunks.end(), int64_t{0},
                           [](int64_t sum, const Chunk& chunk) { return sum + chunk.rows; });
  }
  static int64_t most_blocks(const std::vector<Chunk>& chunks) {
    int64_t context = 0;
    for (const Chunk& chunk : chunks) context = std::max(context, chunk.context);
    return (context + kBlockTokens - 1) / kBlockTokens;
  }

  int64_t blocks_each, blocks;
  Batch batch;
};

}  // namespace manylora::bench

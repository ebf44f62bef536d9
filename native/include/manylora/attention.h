// Causal attention of the rows of a step over K and V in cache pages, with grouped heads: softmax(q K / sqrt(head_dim)) V.
//
// A prompt's chunk and a decode step give a row the same bits, because both follow one order, fixed by absolute positions:
//   partition  512 tokens, a state (maximum, sum, output) of its own; partitions are merged in ascending order
//   group      32 tokens (two blocks): fp32 scores, one chain over ascending dimensions (avx512bf16: pairs); the row's maximum;
//              weights e^(score - maximum); output and sum rescaled if the maximum rose; then one chain per output over ascending
//              tokens
// Tokens after the row's position count as minus infinity and their V as zero, so what an unwritten page holds (even NaN) is
// never seen. avx512bf16 and amx round the weights to bf16 for the product with V, and sum the rounded ones. amx takes 32
// dimensions or 16 tokens in one link of a chain, and is avx512bf16 for a head_dim that is no multiple of 32. The sum runs in the
// capability's lanes (scalar: one) and is reduced once per partition. The output is rounded once to bf16.
#pragma once

#include <cstdint>

#include "manylora/batch.h"
#include "manylora/bfloat16.h"
#include "manylora/kv_cache.h"
#include "manylora/memory.h"

namespace manylora {

class Runtime;

constexpr int64_t kGroupTokens = 32;
constexpr int64_t kPartitionTokens = 512;
constexpr int64_t kMaxGroupHeads = 16;   // query heads per K/V head
constexpr int64_t kTileVectors = 64;     // bounds of one tile: query vectors,
constexpr int64_t kTileElements = 8192;  // and their elements

// Some rows of one sequence times some K/V heads. Its query vectors are ordered by K/V head, row, query head.
struct AttentionTile {
  const bf16* q;           // first row, first query head of the tile
  int64_t q_stride;        // elements
  int64_t rows;            // at consecutive positions
  int64_t first_position;  // of the first row
  int64_t kv_heads;
  int64_t group;           // query heads per K/V head
  int64_t head_dim;
  const bf16* kv;          // the tile's first head in block 0: K, then V, then the next head
  int64_t block_elements;
  const int32_t* blocks;   // of the sequence
  float scale;

  int64_t vectors() const { return kv_heads * rows * group; }
  int64_t first_row_at(int64_t position) const {  // first row at or after it
    return position <= first_position ? 0 : position - first_position < rows ? position - first_position : rows;
  }
};

// The running softmax of a tile's query vectors.
struct AttentionState {
  float* maximum;  // [vectors]
  float* sum;      // [vectors]
  float* output;   // [vectors, head_dim]
};

struct AttentionKernels {
  int64_t tile_vectors;  // of a tile of several rows: K and V are read once for all
  // The partition that begins at `first_token` into `state`, for the rows that see any of it; other rows are left alone.
  void (*attend)(const AttentionTile& tile, int64_t first_token, const AttentionState& state);
  // The state of that partition into the merged state of all before it, for the same rows.
  void (*merge)(const AttentionTile& tile, int64_t first_token, const AttentionState& part, const AttentionState& merged);
  // y = output / sum; y is the tile's first row and query head.
  void (*finish)(const AttentionTile& tile, const AttentionState& state, bf16* y, int64_t y_stride);
};

extern const AttentionKernels attention_scalar, attention_avx2, attention_avx512bf16, attention_amx;

// q and out bf16 [rows, heads * head_dim]; K and V of every row must be in the cache already. Throws std::invalid_argument when
// shapes do not fit, or the heads do not divide into 1 to 16 per K/V head.
void attention(Runtime& runtime, const Batch& batch, const Matrix& q, const KvCache& kv, int64_t layer, Matrix& out);

}  // namespace manylora

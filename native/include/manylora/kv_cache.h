// K and V of all sequences in blocks of 16 tokens.
//
// A block holds its tokens for all layers: [layer][kv head][K | V], bf16. K is [dimension pair][16 tokens][2] and V is
// [token pair][head_dim][2], so that both products of attention read whole vectors of pairs, and all heads of a layer are
// adjacent. Blocks are not cleared when they change hands: what was not written for the present sequence is masked, not trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "manylora/batch.h"
#include "manylora/bfloat16.h"
#include "manylora/memory.h"

namespace manylora {

constexpr int64_t kMaxHeadDim = 256;

// Bytes of one block. Throws std::invalid_argument unless layers and kv_heads are at least 1 and head_dim is a multiple of 16, at
// most 256.
inline int64_t kv_block_bytes(int64_t layers, int64_t kv_heads, int64_t head_dim) {
  if (layers < 1 || kv_heads < 1) throw std::invalid_argument("a K/V cache needs at least one layer and one K/V head");
  if (head_dim < 16 || head_dim > kMaxHeadDim || head_dim % 16 != 0) {
    throw std::invalid_argument("head_dim must be a multiple of 16 from 16 to 256, not " + std::to_string(head_dim));
  }
  return layers * kv_heads * head_dim * kBlockTokens * 2 * static_cast<int64_t>(sizeof(bf16));
}

// Block `id` lies at arena + id * block_bytes(). The arena must outlive the cache.
class KvCache {
 public:
  KvCache(const Memory& arena, int64_t layers, int64_t kv_heads, int64_t head_dim)
      : arena_(arena.data()), layers_(layers), kv_heads_(kv_heads), head_dim_(head_dim),
        block_elements_(kv_block_bytes(layers, kv_heads, head_dim) / 2),
        blocks_(static_cast<int64_t>(arena.bytes()) / block_bytes()) {}

  int64_t layers() const { return layers_; }
  int64_t kv_heads() const { return kv_heads_; }
  int64_t head_dim() const { return head_dim_; }
  int64_t blocks() const { return blocks_; }  // whole blocks that the arena holds
  int64_t block_elements() const { return block_elements_; }
  int64_t block_bytes() const { return block_elements_ * 2; }
  int64_t head_elements() const { return 2 * kBlockTokens * head_dim_; }  // K and V of one head, one layer

  // Throws std::invalid_argument unless `layer` is one of ours and every block of the step lies in the arena.
  void check_use(const Batch& batch, int64_t layer) const {
    if (layer < 0 || layer >= layers_) {
      throw std::invalid_argument("layer " + std::to_string(layer) + " is not one of the cache's " + std::to_string(layers_));
    }
    if (batch.last_block() >= blocks_) {
      throw std::invalid_argument("block " + std::to_string(batch.last_block()) + " is not one of the cache's " +
                                  std::to_string(blocks_));
    }
  }

  // K and V of the first head of `layer` in block 0.
  bf16* layer(int64_t layer) const { return reinterpret_cast<bf16*>(arena_) + layer * kv_heads_ * head_elements(); }

 private:
  std::byte* arena_;
  int64_t layers_, kv_heads_, head_dim_, block_elements_, blocks_;
};

}  // namespace manylora

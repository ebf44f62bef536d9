// Rotary position embedding (Su et al., 2021), half-split as in Hugging Face Llama, with Qwen3's optional RMS norm of each head
// before it; and the place where K and V enter the cache.
//
// For i < head_dim / 2: y[i] = x[i] cos - x[i + half] sin, y[i + half] = x[i + half] cos + x[i] sin, in fp32 (products, then the
// sum, each rounded; never fused), then rounded once to bf16.
#pragma once

#include <cstdint>

#include "manylora/batch.h"
#include "manylora/bfloat16.h"
#include "manylora/kv_cache.h"
#include "manylora/memory.h"

namespace manylora {

class Runtime;

struct RotaryHead {
  const float* x;       // [head_dim]
  const float* norm;    // [head_dim], or null: no norm
  float eps;
  const float* cosine;  // [head_dim / 2]
  const float* sine;    // [head_dim / 2]
  int64_t head_dim;
};

struct RotaryKernels {
  void (*rotate)(const RotaryHead& head, bf16* y);
  void (*round)(const float* x, int64_t columns, bf16* y);  // to nearest, ties to even
};

extern const RotaryKernels rotary_scalar, rotary_avx2, rotary_avx512bf16;

// The learned weights of the norm of each head, float32 [1, head_dim], or null.
struct HeadNorm {
  const Matrix* query;
  const Matrix* key;
  float eps;
};

// qkv float32 [rows, (heads + 2 kv_heads) * head_dim] -> q bf16 [rows, heads * head_dim], and K and V of every row into the cache
// at its position. cosine and sine float32 [max_position, head_dim / 2]. Throws std::invalid_argument when shapes do not fit, a
// position is beyond the tables or a block beyond the cache.
void rotary(Runtime& runtime, const Batch& batch, const Matrix& qkv, const Matrix& cosine, const Matrix& sine, const KvCache& kv,
            int64_t layer, Matrix& q, int64_t heads, const HeadNorm& norm);

}  // namespace manylora

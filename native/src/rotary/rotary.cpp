#include "manylora/rotary.h"

#include <algorithm>
#include <cstring>

#include "manylora/runtime.h"
#include "manylora/shape.h"

namespace manylora {
namespace {

// K of one token into its block: dimension pairs, 16 tokens apart.
void store_key(const bf16* key, int64_t head_dim, int64_t token, bf16* block) {
  for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
    std::memcpy(block + (pair * kBlockTokens + token) * 2, key + pair * 2, 2 * sizeof(bf16));
  }
}

// V of one token into its block: every second element of the token pair. The neighbour's elements are another thread's.
void store_value(const bf16* value, int64_t head_dim, int64_t token, bf16* block) {
  bf16* pair = block + token / 2 * head_dim * 2 + token % 2;
  for (int64_t i = 0; i < head_dim; ++i) pair[i * 2] = value[i];
}

struct Rotation {
  const RotaryKernels& kernels;
  const Batch& batch;
  const Matrix &qkv, &cosine, &sine;
  const KvCache& kv;
  int64_t layer;
  Matrix& q;
  int64_t heads;
  const HeadNorm& norm;

  void operator()(int64_t row) const {
    const int64_t head_dim = kv.head_dim();
    const int64_t position = batch.positions()[row];
    const float* x = qkv.floats() + row * qkv.stride();
    RotaryHead head{x, norm.query ? norm.query->floats() : nullptr, norm.eps, cosine.floats() + position * cosine.stride(),
                    sine.floats() + position * sine.stride(), head_dim};
    bf16* y = q.bf16s() + row * q.stride();
    for (int64_t i = 0; i < heads; ++i, head.x += head_dim) kernels.rotate(head, y + i * head_dim);

    const int64_t block = batch.blocks_of(batch.sequence_of(row))[position / kBlockTokens];
    const int64_t token = position % kBlockTokens;
    bf16* page = kv.layer(layer) + block * kv.block_elements();
    const float* value = x + (heads + kv.kv_heads()) * head_dim;
    head.norm = norm.key ? norm.key->floats() : nullptr;
    alignas(64) bf16 rounded[kMaxHeadDim];
    for (int64_t i = 0; i < kv.kv_heads(); ++i, head.x += head_dim, value += head_dim, page += kv.head_elements()) {
      kernels.rotate(head, rounded);
      store_key(rounded, head_dim, token, page);
      kernels.round(value, head_dim, rounded);
      store_value(rounded, head_dim, token, page + kBlockTokens * head_dim);
    }
  }
};

// The first row at or after `row` that begins a block, or what the step has of one.
int64_t block_border(const Batch& batch, int64_t row) {
  if (row >= batch.rows()) return batch.rows();
  const int64_t sequence = batch.sequence_of(row), token = batch.positions()[row] % kBlockTokens;
  if (token == 0 || row == batch.start(sequence)) return row;
  return std::min(batch.stop(sequence), row + kBlockTokens - token);
}

}  // namespace

void rotary(Runtime& runtime, const Batch& batch, const Matrix& qkv, const Matrix& cosine, const Matrix& sine, const KvCache& kv,
            int64_t layer, Matrix& q, int64_t heads, const HeadNorm& norm) {
  const Timed timed(runtime.times(), Part::elementwise);
  check(heads >= 1, "heads must be at least 1");
  kv.check_use(batch, layer);
  check_matrix(qkv, "qkv", Dtype::float32, batch.rows(), (heads + 2 * kv.kv_heads()) * kv.head_dim());
  check_matrix(cosine, "cosine", Dtype::float32, batch.last_position() + 1, kv.head_dim() / 2);
  check_matrix(sine, "sine", Dtype::float32, batch.last_position() + 1, kv.head_dim() / 2);
  check_matrix(q, "q", Dtype::bfloat16, batch.rows(), heads * kv.head_dim());
  if (norm.query) check_matrix(*norm.query, "q_norm", Dtype::float32, 1, kv.head_dim());
  if (norm.key) check_matrix(*norm.key, "k_norm", Dtype::float32, 1, kv.head_dim());
  const Rotation rotate_row{runtime.kernels().rotary, batch, qkv, cosine, sine, kv, layer, q, heads, norm};
  // Tokens of one block lie in the same cache lines: a task takes them all, or threads would fight over every line.
  const int64_t together = batch.rows() == batch.sequences() ? 2 : kBlockTokens;
  runtime.workers().run((batch.rows() + together - 1) / together, [&](int64_t task) {
    const int64_t stop = block_border(batch, (task + 1) * together);
    for (int64_t row = block_border(batch, task * together); row < stop; ++row) rotate_row(row);
  });
}

}  // namespace manylora

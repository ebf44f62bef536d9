#include "manylora/embedding.h"

namespace manylora {
namespace {

void widen_row(const bf16* from, int64_t columns, float* to) {
  for (int64_t i = 0; i < columns; ++i) to[i] = to_float(from[i]);
}

}  // namespace

const EmbeddingKernels embedding_scalar = {widen_row};

}  // namespace manylora

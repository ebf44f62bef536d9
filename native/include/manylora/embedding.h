// Rows by index: token embeddings into the residual stream, and the rows that go on to the vocabulary.
#pragma once

#include <cstdint>

#include "manylora/batch.h"
#include "manylora/bfloat16.h"
#include "manylora/memory.h"

namespace manylora {

class Runtime;

struct EmbeddingKernels {
  // bf16 to float32, exactly.
  void (*widen)(const bf16* from, int64_t columns, float* to);
};

extern const EmbeddingKernels embedding_scalar, embedding_avx2, embedding_avx512bf16;

// x[row] = table[token_ids[row]] for the rows of the step; table bf16 [vocabulary, columns], x float32 [rows, columns].
// Throws std::invalid_argument when shapes do not fit or a token is not in the table.
void embed(Runtime& runtime, const Batch& batch, const Matrix& table, Matrix& x);

// y[i] = x[gather_rows[i]] for i < count, both float32. Throws std::invalid_argument when shapes do not fit or a row is not of
// the step.
void gather(Runtime& runtime, const Batch& batch, int64_t count, const Matrix& x, Matrix& y);

}  // namespace manylora

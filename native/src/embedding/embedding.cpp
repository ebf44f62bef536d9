#include "manylora/embedding.h"

#include <cstring>

#include "../for_rows.h"
#include "manylora/runtime.h"
#include "manylora/shape.h"

namespace manylora {

void embed(Runtime& runtime, const Batch& batch, const Matrix& table, Matrix& x) {
  const Timed timed(runtime.times(), Part::elementwise);
  check_matrix(table, "table", Dtype::bfloat16, 1, x.columns());
  check_matrix(x, "x", Dtype::float32, batch.rows(), x.columns());
  if (batch.last_token() >= table.rows()) {
    throw std::invalid_argument("token " + std::to_string(batch.last_token()) + " is not in a table of " +
                                std::to_string(table.rows()));
  }
  const auto kernel = runtime.kernels().embedding.widen;
  for_rows(runtime.workers(), batch.rows(), x.columns(), [&](int64_t row) {
    kernel(table.bf16s() + batch.token_ids()[row] * table.stride(), x.columns(), x.floats() + row * x.stride());
  });
}

void gather(Runtime& runtime, const Batch& batch, int64_t count, const Matrix& x, Matrix& y) {
  const Timed timed(runtime.times(), Part::elementwise);
  check(count >= 0 && count <= batch.max_rows(), "count must be from 0 to the batch's max_rows");
  check_matrix(x, "x", Dtype::float32, batch.rows(), y.columns());
  check_matrix(y, "y", Dtype::float32, count, y.columns());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = batch.gather_rows()[i];
    if (row < 0 || row >= batch.rows()) {
      throw std::invalid_argument("gather_rows[" + std::to_string(i) + "] is " + std::to_string(row) + ", but the step has " +
                                  std::to_string(batch.rows()) + " rows");
    }
  }
  const size_t bytes = static_cast<size_t>(y.columns()) * sizeof(float);
  for_rows(runtime.workers(), count, y.columns(), [&](int64_t i) {
    std::memcpy(y.floats() + i * y.stride(), x.floats() + batch.gather_rows()[i] * x.stride(), bytes);
  });
}

}  // namespace manylora

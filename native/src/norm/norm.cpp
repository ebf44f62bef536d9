#include "manylora/norm.h"

#include "../for_rows.h"
#include "manylora/runtime.h"
#include "manylora/shape.h"

namespace manylora {

void rms_norm(Runtime& runtime, int64_t rows, const Matrix& x, const Matrix& weight, float eps, Matrix& y) {
  const Timed timed(runtime.times(), Part::elementwise);
  check(rows >= 0, "rows must not be negative");
  check_matrix(x, "x", Dtype::float32, rows, x.columns());
  check_matrix(weight, "weight", Dtype::float32, 1, x.columns());
  check_matrix(y, "y", Dtype::bfloat16, rows, x.columns());
  const auto kernel = runtime.kernels().norm.rms_norm;
  for_rows(runtime.workers(), rows, x.columns(), [&](int64_t row) {
    kernel(x.floats() + row * x.stride(), weight.floats(), eps, x.columns(), y.bf16s() + row * y.stride());
  });
}

}  // namespace manylora

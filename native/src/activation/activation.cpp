#include "manylora/activation.h"

#include "../for_rows.h"
#include "manylora/runtime.h"
#include "manylora/shape.h"

namespace manylora {

void silu_multiply(Runtime& runtime, int64_t rows, const Matrix& gate_up, Matrix& y) {
  const Timed timed(runtime.times(), Part::elementwise);
  check(rows >= 0, "rows must not be negative");
  check_matrix(gate_up, "gate_up", Dtype::float32, rows, 2 * y.columns());
  check_matrix(y, "y", Dtype::bfloat16, rows, y.columns());
  const auto kernel = runtime.kernels().activation.silu_multiply;
  const int64_t columns = y.columns();
  for_rows(runtime.workers(), rows, 4 * columns, [&](int64_t row) {
    const float* gate = gate_up.floats() + row * gate_up.stride();
    kernel(gate, gate + columns, columns, y.bf16s() + row * y.stride());
  });
}

}  // namespace manylora

// Checks that operations make of their matrices, once per call.
#pragma once

#include <stdexcept>
#include <string>

#include "manylora/memory.h"

namespace manylora {

// Throws std::invalid_argument unless `matrix` has this type, at least `rows` rows and exactly `columns` columns.
inline void check_matrix(const Matrix& matrix, const char* name, Dtype dtype, int64_t rows, int64_t columns) {
  if (matrix.dtype() == dtype && matrix.rows() >= rows && matrix.columns() == columns) return;
  const auto type = [](Dtype kind) { return std::string(kind == Dtype::float32 ? "float32" : "bfloat16"); };
  throw std::invalid_argument(std::string(name) + " must be " + type(dtype) + " [at least " + std::to_string(rows) + ", " +
                              std::to_string(columns) + "], not " + type(matrix.dtype()) + " [" + std::to_string(matrix.rows()) +
                              ", " + std::to_string(matrix.columns()) + "]");
}

// Throws std::invalid_argument with `message` unless `condition`. For messages that need no building.
inline void check(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace manylora

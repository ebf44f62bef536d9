// Root mean square normalisation (Zhang and Sennrich, 2019): y = x / sqrt(mean(x^2) + eps) * weight.
//
// x float32, weight float32, y bf16. The squares are summed in fp32 in four vectors of lanes over ascending columns (scalar: four
// chains), then as a tree: an order that depends on the number of columns only.
#pragma once

#include <cstdint>

#include "manylora/bfloat16.h"
#include "manylora/memory.h"

namespace manylora {

class Runtime;

struct NormKernels {
  // One row of `columns` elements.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t columns, bf16* y);
};

extern const NormKernels norm_scalar, norm_avx2, norm_avx512bf16;

// The first `rows` rows of x [rows, columns] into y; weight [1, columns]. Throws std::invalid_argument when shapes do not fit.
void rms_norm(Runtime& runtime, int64_t rows, const Matrix& x, const Matrix& weight, float eps, Matrix& y);

}  // namespace manylora

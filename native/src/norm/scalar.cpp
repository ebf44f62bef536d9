#include "scalar.h"

#include "manylora/norm.h"

namespace manylora {
namespace {

void rms_norm_row(const float* x, const float* weight, float eps, int64_t columns, bf16* y) {
  const float scale = inverse_rms_scalar(x, columns, eps);
  for (int64_t i = 0; i < columns; ++i) y[i] = to_bf16(x[i] * scale * weight[i]);
}

}  // namespace

const NormKernels norm_scalar = {rms_norm_row};

}  // namespace manylora

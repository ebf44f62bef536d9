#include "../vector/exp.h"
#include "manylora/activation.h"

namespace manylora {
namespace {

void silu_multiply_row(const float* gate, const float* up, int64_t columns, bf16* y) {
  for (int64_t i = 0; i < columns; ++i) y[i] = to_bf16(gate[i] / (1.0f + exp_scalar(0.0f - gate[i])) * up[i]);
}

}  // namespace

const ActivationKernels activation_scalar = {silu_multiply_row};

}  // namespace manylora

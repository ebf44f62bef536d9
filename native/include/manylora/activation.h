// The gated activation of Llama-like MLPs: y = silu(gate) * up, silu(g) = g / (1 + e^-g).
//
// fp32 throughout, with our own e^x; y is rounded once to bf16.
#pragma once

#include <cstdint>

#include "manylora/bfloat16.h"
#include "manylora/memory.h"

namespace manylora {

class Runtime;

struct ActivationKernels {
  // One row: gate, up and y have `columns` elements.
  void (*silu_multiply)(const float* gate, const float* up, int64_t columns, bf16* y);
};

extern const ActivationKernels activation_scalar, activation_avx2, activation_avx512bf16;

// The second step of `gated_linear` (linear.h) by itself, and what that is tested against. gate_up [rows, 2 * columns], the gate
// first; y [rows, columns]. Throws std::invalid_argument when shapes do not fit.
void silu_multiply(Runtime& runtime, int64_t rows, const Matrix& gate_up, Matrix& y);

}  // namespace manylora

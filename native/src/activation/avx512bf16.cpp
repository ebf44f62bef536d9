#include "../vector/avx512bf16.h"

#include "manylora/activation.h"
#include "vector.h"

namespace manylora {

const ActivationKernels activation_avx512bf16 = {silu_multiply_row<Avx512Bf16>};

}  // namespace manylora

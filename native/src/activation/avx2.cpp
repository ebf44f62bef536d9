#include "../vector/avx2.h"

#include "manylora/activation.h"
#include "vector.h"

namespace manylora {

const ActivationKernels activation_avx2 = {silu_multiply_row<Avx2>};

}  // namespace manylora

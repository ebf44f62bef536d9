#include "../vector/avx512bf16.h"

#include "manylora/norm.h"
#include "vector.h"

namespace manylora {

const NormKernels norm_avx512bf16 = {rms_norm_row<Avx512Bf16>};

}  // namespace manylora

#include "../vector/avx2.h"

#include "manylora/norm.h"
#include "vector.h"

namespace manylora {

const NormKernels norm_avx2 = {rms_norm_row<Avx2>};

}  // namespace manylora

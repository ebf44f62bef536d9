#include "../vector/avx512bf16.h"

#include "manylora/sampling.h"
#include "vector.h"

namespace manylora {

const SamplingKernels sampling_avx512bf16 = {highest<Avx512Bf16>, find<Avx512Bf16>, weigh<Avx512Bf16>, sum_weights<Avx512Bf16>,
                                              collect<Avx512Bf16>};

}  // namespace manylora

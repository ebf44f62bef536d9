#include "../vector/avx2.h"

#include "manylora/sampling.h"
#include "vector.h"

namespace manylora {

const SamplingKernels sampling_avx2 = {highest<Avx2>, find<Avx2>, weigh<Avx2>, sum_weights<Avx2>, collect<Avx2>};

}  // namespace manylora

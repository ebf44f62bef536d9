#include "../vector/avx512bf16.h"

#include "manylora/attention.h"
#include "vector.h"

namespace manylora {

const AttentionKernels attention_avx512bf16 = {32, attend<Avx512Bf16>, merge<Avx512Bf16>, finish<Avx512Bf16>};

}  // namespace manylora

#include "../vector/avx512bf16.h"

#include "manylora/rotary.h"
#include "vector.h"

namespace manylora {

const RotaryKernels rotary_avx512bf16 = {rotate_head<Avx512Bf16>, round_row<Avx512Bf16>};

}  // namespace manylora

#include "../vector/avx2.h"

#include "manylora/rotary.h"
#include "vector.h"

namespace manylora {

const RotaryKernels rotary_avx2 = {rotate_head<Avx2>, round_row<Avx2>};

}  // namespace manylora

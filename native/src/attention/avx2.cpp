#include "../vector/avx2.h"

#include "manylora/attention.h"
#include "vector.h"

namespace manylora {

const AttentionKernels attention_avx2 = {32, attend<Avx2>, merge<Avx2>, finish<Avx2>};

}  // namespace manylora

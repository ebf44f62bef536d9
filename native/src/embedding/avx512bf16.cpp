#include "../vector/avx512bf16.h"

#include "manylora/embedding.h"
#include "vector.h"

namespace manylora {

const EmbeddingKernels embedding_avx512bf16 = {widen_row<Avx512Bf16>};

}  // namespace manylora

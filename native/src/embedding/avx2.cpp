#include "../vector/avx2.h"

#include "manylora/embedding.h"
#include "vector.h"

namespace manylora {

const EmbeddingKernels embedding_avx2 = {widen_row<Avx2>};

}  // namespace manylora

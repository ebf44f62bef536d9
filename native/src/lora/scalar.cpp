// The specification of shrink.
#include "manylora/lora.h"

namespace manylora {
namespace {

constexpr int64_t kLanes = 16;

void shrink(const ShrinkJob& job) {
  const int64_t pitch = (job.depth + kShrinkDepth - 1) / kShrinkDepth * kShrinkDepth;
  for (int64_t row = 0; row < job.rows; ++row) {
    const bf16* x = job.x + row * job.x_stride;
    for (int64_t j = 0; j < job.ranks; ++j) {
      const bf16* a = job.a + j * pitch;
      float lanes[kLanes] = {};
      for (int64_t k = 0; k < job.depth; ++k) lanes[k % kLanes] += to_float(x[k]) * to_float(a[k]);
      for (int64_t half = kLanes / 2; half > 0; half /= 2) {
        for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
      }
      job.s[row * job.s_stride + j] = to_bf16(lanes[0] * job.scale);
    }
  }
}

}  // namespace

const LoraKernels lora_scalar{shrink};

}  // namespace manylora

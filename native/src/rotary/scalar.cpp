#include "../norm/scalar.h"
#include "manylora/rotary.h"

namespace manylora {
namespace {

void rotate_head(const RotaryHead& head, bf16* y) {
  const int64_t half = head.head_dim / 2;
  const float scale = head.norm ? inverse_rms_scalar(head.x, head.head_dim, head.eps) : 1.0f;
  for (int64_t i = 0; i < half; ++i) {
    const float low = head.norm ? head.x[i] * scale * head.norm[i] : head.x[i];
    const float high = head.norm ? head.x[half + i] * scale * head.norm[half + i] : head.x[half + i];
    y[i] = to_bf16(low * head.cosine[i] - high * head.sine[i]);
    y[half + i] = to_bf16(high * head.cosine[i] + low * head.sine[i]);
  }
}

void round_row(const float* x, int64_t columns, bf16* y) {
  for (int64_t i = 0; i < columns; ++i) y[i] = to_bf16(x[i]);
}

}  // namespace

const RotaryKernels rotary_scalar = {rotate_head, round_row};

}  // namespace manylora

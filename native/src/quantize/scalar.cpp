// The specification of rotation and rounding.
#include <algorithm>
#include <cmath>

#include "manylora/quantize.h"
#include "row_scale.h"

namespace manylora {
namespace {

void rotate(float* block) {
  for (int64_t distance = kRotation / 2; distance > 0; distance /= 2) {
    for (int64_t i = 0; i < kRotation; ++i) {
      if ((i & distance) != 0) continue;
      const float a = block[i], b = block[i + distance];
      block[i] = a + b;
      block[i + distance] = a - b;
    }
  }
}

void row(const bf16* x, int64_t depth, float* rotated, uint8_t* q, float* scale) {
  const int64_t padded = padded_depth(depth);
  for (int64_t k = 0; k < padded; ++k) rotated[k] = k < depth ? to_float(x[k]) : 0.0f;
  for (int64_t k = 0; k < padded; k += kRotation) rotate(rotated + k);
  uint32_t largest = 0;
  for (int64_t k = 0; k < padded; ++k) largest = std::max(largest, std::bit_cast<uint32_t>(rotated[k]) & 0x7fffffffu);
  const RowScale found = row_scale(largest);
  *scale = found.scale;
  for (int64_t k = 0; k < padded; ++k) {
    const int64_t rounded = found.inverse == 0.0f ? 0 : std::lrint(rotated[k] * found.inverse);
    q[k] = static_cast<uint8_t>(rounded + kInt8Zero);
  }
}

}  // namespace

const QuantizeKernels quantize_scalar{row};

}  // namespace manylora

// Rows as int8: every capability has the bits of the specification, and reads and writes no byte more than told.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "manylora/dispatch.h"
#include "manylora/quantize.h"

using namespace manylora;

namespace {

struct Rounded {
  std::vector<uint8_t> q;
  float scale;
};

Rounded quantize(Capability capability, const std::vector<bf16>& x) {
  const auto depth = static_cast<int64_t>(x.size()), padded = padded_depth(depth);
  Memory rotated(static_cast<size_t>(padded) * sizeof(float)), q(static_cast<size_t>(padded));
  Rounded result;
  kernels_for(capability).quantize.row(x.data(), depth, reinterpret_cast<float*>(rotated.data()),
                                       reinterpret_cast<uint8_t*>(q.data()), &result.scale);
  const auto* bytes = reinterpret_cast<const uint8_t*>(q.data());
  result.q.assign(bytes, bytes + padded);
  return result;
}

void compare(const std::vector<bf16>& x) {
  const Rounded specified = quantize(Capability::scalar, x);
  for (Capability capability : available_capabilities()) {
    const Rounded got = quantize(capability, x);
    CHECK(got.q == specified.q);
    CHECK(got.scale == specified.scale || (std::isnan(got.scale) && std::isnan(specified.scale)));
  }
}

bool zero(const std::vector<uint8_t>& q) {
  for (uint8_t value : q) {
    if (value != kInt8Zero) return false;
  }
  return true;
}

// One element alone is spread over its block with magnitude 127 throughout; its sign and its place are in the signs.
void spread() {
  std::vector<bf16> x(130, 0);
  x[65] = to_bf16(-3.0f);
  const Rounded got = quantize(Capability::scalar, x);
  CHECK(got.scale == 3.0f / 127.0f);
  for (size_t k = 0; k < got.q.size(); ++k) {
    const int expected = k / 64 == 1 ? (k % 2 == 0 ? -127 : 127) : 0;  // row 1 of the matrix alternates
    CHECK(got.q[k] - kInt8Zero == expected);
  }
}

}  // namespace

int main() {
  std::mt19937 generator{3};
  std::normal_distribution<float> normal;
  for (int64_t depth = 1; depth < 200; ++depth) {
    std::vector<bf16> x(static_cast<size_t>(depth));
    for (bf16& value : x) value = to_bf16(normal(generator) * std::exp(4 * normal(generator)));
    compare(x);
  }
  for (const float special : {0.0f, -0.0f, 1e-39f, 1e-36f, 3e38f, INFINITY, -INFINITY, NAN}) {
    std::vector<bf16> x(100, to_bf16(special));
    compare(x);
    const Rounded got = quantize(Capability::scalar, x);
    CHECK(std::isnan(got.scale) == !(std::fabs(special) < 1e38f));  // 64 times 3e38 is infinite
    CHECK(zero(got.q) == (got.scale == 0.0f || std::isnan(got.scale)));
    x[7] = to_bf16(1.0f);
    compare(x);
  }
  spread();
  return 0;
}

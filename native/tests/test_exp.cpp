// Our e^x, through the sampling kernels that apply it as it is: accuracy over its range, its ends, and tails that equal the body.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "manylora/dispatch.h"

using namespace manylora;

namespace {

std::vector<float> exp_of(const SamplingKernels& kernels, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  kernels.weigh(x.data(), static_cast<int64_t>(x.size()), 0.0f, 1.0f, y.data());
  return y;
}

// Relative error below 2e-7 wherever the result is a normal number.
void test_accuracy(const SamplingKernels& kernels) {
  std::vector<float> x;
  for (int i = 0; i <= 2000000; ++i) x.push_back(-87.0f + 175.0f * static_cast<float>(i) / 2000000.0f);
  for (float small = 1e-30f; small < 1.0f; small *= 1.5f) x.insert(x.end(), {small, -small});
  const std::vector<float> y = exp_of(kernels, x);
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    CHECK(std::abs(static_cast<double>(y[i]) / exact - 1.0) < 2e-7);
  }
}

// Attention relies on e^0 = 1 and on e^-infinity = 0, exactly.
void test_ends(const SamplingKernels& kernels) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> y = exp_of(kernels, {0.0f, -0.0f, -infinity, infinity, -87.5f, 89.0f, -3e38f, 3e38f,
                                               std::numeric_limits<float>::quiet_NaN()});
  CHECK(y[0] == 1.0f && y[1] == 1.0f && y[2] == 0.0f && y[3] == infinity);
  CHECK(y[4] == 0.0f && y[5] == infinity && y[6] == 0.0f && y[7] == infinity && std::isnan(y[8]));
}

// An element has the same bits in a tail as in a full vector.
void test_tails(const SamplingKernels& kernels) {
  std::vector<float> x;
  for (int i = 0; i < 64; ++i) x.push_back(-20.0f + 0.61f * static_cast<float>(i));
  const std::vector<float> whole = exp_of(kernels, x);
  for (size_t count = 1; count <= x.size(); ++count) {
    const std::vector<float> part = exp_of(kernels, {x.end() - static_cast<int64_t>(count), x.end()});
    CHECK(std::memcmp(part.data(), whole.data() + x.size() - count, count * sizeof(float)) == 0);
  }
}

}  // namespace

int main() {
  for (Capability capability : available_capabilities()) {
    const SamplingKernels kernels = kernels_for(capability).sampling;
    test_accuracy(kernels);
    test_ends(kernels);
    test_tails(kernels);
  }
  return 0;
}

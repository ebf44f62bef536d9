#include <limits>

#include "../vector/exp.h"
#include "manylora/sampling.h"

namespace manylora {
namespace {

Highest highest(const float* x, int64_t count) {
  Highest found{-std::numeric_limits<float>::infinity(), false};
  for (int64_t i = 0; i < count; ++i) {
    if (x[i] > found.value) found.value = x[i];
    if (x[i] != x[i]) found.nan = true;
  }
  return found;
}

int64_t find(const float* x, int64_t count, float value) {
  for (int64_t i = 0; i < count; ++i) {
    if (x[i] == value) return i;
  }
  return -1;
}

void weigh(const float* x, int64_t count, float highest, float temperature, float* weights) {
  for (int64_t i = 0; i < count; ++i) weights[i] = exp_scalar((x[i] - highest) / temperature);
}

float sum_weights(const float* x, int64_t count, float highest, float temperature, float floor) {
  double sum = 0.0;  // one lane takes them all
  for (int64_t i = 0; i < count; ++i) {
    const float weight = exp_scalar((x[i] - highest) / temperature);
    if (weight >= floor) sum += double{weight};
  }
  return static_cast<float>(sum);
}

int64_t collect(const float* x, int64_t count, float threshold, uint32_t* to) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!(x[i] < threshold)) to[found++] = static_cast<uint32_t>(i);
  }
  return found;
}

}  // namespace

const SamplingKernels sampling_scalar = {highest, find, weigh, sum_weights, collect};

}  // namespace manylora

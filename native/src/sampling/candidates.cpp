#include "candidates.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace manylora {
namespace {

// Rises as the logit falls; equal for equal logits (both zeros too), NaN as minus infinity.
uint32_t descending(float logit) {
  if (logit != logit) logit = -std::numeric_limits<float>::infinity();
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);
  return (bits >> 31) != 0 ? bits : 0x7fffffffu - bits;
}

}  // namespace

void Candidates::collect(float threshold) {
  count_ = kernels_.collect(logits_, vocabulary_, threshold, tokens_);
  for (int64_t i = 0; i < count_; ++i) keys_[i] = uint64_t{descending(logits_[tokens_[i]])} << 32 | tokens_[i];
}

void Candidates::sort(int64_t sorted, int64_t count) {
  if (count <= sorted) return;
  if (count < count_) std::nth_element(keys_ + sorted, keys_ + count, keys_ + count_);
  std::sort(keys_ + sorted, keys_ + count);
}

void Candidates::weigh(int64_t start, int64_t stop, float highest, float temperature) {
  float* gathered = reinterpret_cast<float*>(tokens_);  // the tokens are in the keys by now
  for (int64_t i = start; i < stop; ++i) gathered[i] = logit(i);
  kernels_.weigh(gathered + start, stop - start, highest, temperature, weights_ + start);
}

int32_t Candidates::draw(int64_t count, float floor, double uniform) {
  for (int64_t i = 0; i < count; ++i) {
    const float kept = weights_[i] < floor ? 0.0f : weights_[i];
    keys_[i] = uint64_t{token(i)} << 32 | std::bit_cast<uint32_t>(kept);
  }
  std::sort(keys_, keys_ + count);
  const auto weight_of = [](uint64_t key) { return double{std::bit_cast<float>(static_cast<uint32_t>(key))}; };
  double sum = 0.0;
  for (int64_t i = 0; i < count; ++i) sum += weight_of(keys_[i]);
  int64_t chosen = 0;
  double cumulative = 0.0;
  for (int64_t i = 0; i < count && !(cumulative > uniform * sum); ++i) {
    if (weight_of(keys_[i]) > 0.0) chosen = i;
    cumulative += weight_of(keys_[i]);
  }
  return static_cast<int32_t>(keys_[chosen] >> 32);
}

}  // namespace manylora

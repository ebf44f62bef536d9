#include "candidates.h"

#include <algorithm>
#include <array>
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

void Candidates::most_likely(int64_t count, int32_t* tokens) {
  std::copy_n(keys_, count_, spare_);
  std::partial_sort(spare_, spare_ + count, spare_ + count_);
  for (int64_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>(spare_[i] & 0xffffffffu);
}

void Candidates::weigh(float highest, float temperature, float floor) {
  for (int64_t i = 0; i < count_; ++i) weights_[i] = logits_[tokens_[i]];
  kernels_.weigh(weights_, count_, highest, temperature, weights_);
  for (int64_t i = 0; i < count_; ++i) weights_[i] = weights_[i] < floor ? 0.0f : weights_[i];
}

double Candidates::sum() const {
  double total = 0.0;
  for (int64_t i = 0; i < count_; ++i) total += double{weights_[i]};
  return total;
}

void Candidates::keep_count(int64_t count) {
  if (count >= count_) return;
  std::copy_n(keys_, count_, spare_);
  std::nth_element(spare_, spare_ + count - 1, spare_ + count_);
  const uint64_t last = spare_[count - 1];
  for (int64_t i = 0; i < count_; ++i) weights_[i] = keys_[i] > last ? 0.0f : weights_[i];
}

bool Candidates::keep_mass(double enough, float highest, float width) {
  // Candidates fall into bins by their distance from the highest, which orders the bins; only one bin has to be sorted.
  constexpr int kBins = 1024;
  const float scale = static_cast<float>(kBins) / width;
  const auto bin_of = [&](int64_t i) {  // NaN (0 * infinity, at extreme temperatures) goes to the last
    return static_cast<int>(std::min(static_cast<float>(kBins - 1), (highest - logits_[tokens_[i]]) * scale));
  };
  std::array<double, kBins> masses{};
  for (int64_t i = 0; i < count_; ++i) masses[static_cast<size_t>(bin_of(i))] += double{weights_[i]};
  int edge = 0;
  double cumulative = 0.0;
  for (; edge < kBins; ++edge) {
    const double mass = masses[static_cast<size_t>(edge)];
    if (cumulative + mass >= enough) break;
    cumulative += mass;
  }
  if (edge == kBins) return false;

  int64_t in_edge = 0;
  for (int64_t i = 0; i < count_; ++i) {
    // The key's token gives way to the candidate's index, which is in the same order.
    if (bin_of(i) == edge) spare_[in_edge++] = (keys_[i] & ~uint64_t{0xffffffffu}) | static_cast<uint64_t>(i);
  }
  std::sort(spare_, spare_ + in_edge);
  int64_t last = 0;
  for (; last < in_edge - 1; ++last) {
    cumulative += double{weights_[spare_[last] & 0xffffffffu]};
    if (cumulative >= enough) break;
  }
  const uint64_t last_key = keys_[spare_[last] & 0xffffffffu];
  for (int64_t i = 0; i < count_; ++i) weights_[i] = bin_of(i) > edge || keys_[i] > last_key ? 0.0f : weights_[i];
  return true;
}

int32_t Candidates::draw(double uniform) const {
  const double target = uniform * sum();
  int64_t chosen = 0;
  double cumulative = 0.0;
  for (int64_t i = 0; i < count_ && !(cumulative > target); ++i) {
    if (weights_[i] == 0.0f) continue;
    chosen = i;
    cumulative += double{weights_[i]};
  }
  return static_cast<int32_t>(tokens_[chosen]);
}

}  // namespace manylora

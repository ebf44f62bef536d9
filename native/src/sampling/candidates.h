// The most likely tokens of a row, without sorting the vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>

#include "manylora/sampling.h"

namespace manylora {

// Tokens within some distance of the largest logit, in ascending token id, with the weights that sampling gives them.
class Candidates {
 public:
  // Bytes of scratch, for a vocabulary.
  static int64_t bytes(int64_t vocabulary) {
    return (vocabulary * static_cast<int64_t>(2 * sizeof(uint64_t) + sizeof(uint32_t) + sizeof(float)) + 63) / 64 * 64;
  }

  Candidates(const SamplingKernels& kernels, const float* logits, int64_t vocabulary, std::byte* scratch)
      : kernels_(kernels), logits_(logits), vocabulary_(vocabulary), keys_(reinterpret_cast<uint64_t*>(scratch)),
        spare_(keys_ + vocabulary), tokens_(reinterpret_cast<uint32_t*>(spare_ + vocabulary)),
        weights_(reinterpret_cast<float*>(tokens_ + vocabulary)) {}

  // All tokens whose logit is not below `threshold`. NaN counts as minus infinity, but is always among them.
  void collect(float threshold);

  int64_t count() const { return count_; }

  // The `count` most likely candidates, most likely first, ties by ascending token id; `count` is at most count().
  void most_likely(int64_t count, int32_t* tokens);

  // Weights become e^((logit - highest) / temperature), or 0 if that is below `floor`.
  void weigh(float highest, float temperature, float floor);

  double sum() const;

  // The weights of all but the `count` most likely become 0.
  void keep_count(int64_t count);

  // The weights of all but the fewest most likely that together reach `enough` become 0. False, and nothing changes, if all
  // together do not reach it. `width` is how far below `highest` most candidates are: for speed only.
  bool keep_mass(double enough, float highest, float width);

  // The token at which the cumulative weight, in ascending token id, passes uniform * sum().
  int32_t draw(double uniform) const;

 private:
  const SamplingKernels& kernels_;
  const float* logits_;
  int64_t vocabulary_;
  uint64_t* keys_;    // ascending keys are descending logits, then ascending token ids
  uint64_t* spare_;
  uint32_t* tokens_;
  float* weights_;
  int64_t count_ = 0;
};

}  // namespace manylora

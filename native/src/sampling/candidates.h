// The most likely tokens of a row, in order, without sorting the vocabulary.
#pragma once

#include <cstdint>

#include "manylora/sampling.h"

namespace manylora {

// Scratch of one row: the bytes it takes, for a vocabulary.
inline int64_t candidate_bytes(int64_t vocabulary) {
  return (vocabulary * static_cast<int64_t>(sizeof(uint64_t) + sizeof(uint32_t) + sizeof(float)) + 63) / 64 * 64;
}

// Tokens within some distance of the largest logit. First few, then more if those were too few, then all of them.
class Candidates {
 public:
  Candidates(const SamplingKernels& kernels, const float* logits, int64_t vocabulary, std::byte* scratch)
      : kernels_(kernels), logits_(logits), vocabulary_(vocabulary), keys_(reinterpret_cast<uint64_t*>(scratch)),
        weights_(reinterpret_cast<float*>(keys_ + vocabulary)), tokens_(reinterpret_cast<uint32_t*>(weights_ + vocabulary)) {}

  // All tokens whose logit is not below `threshold`, unordered. NaN counts as minus infinity, but is always among them.
  void collect(float threshold);

  int64_t count() const { return count_; }

  // Brings the `count` most likely ones to the front, most likely first; at least the first `sorted` are so already.
  void sort(int64_t sorted, int64_t count);

  uint32_t token(int64_t index) const { return static_cast<uint32_t>(keys_[index]); }
  float logit(int64_t index) const { return logits_[token(index)]; }

  // Fills weight(i) = e^((logit - highest) / temperature) for i in [start, stop).
  void weigh(int64_t start, int64_t stop, float highest, float temperature);
  // 0 if it is below `floor`.
  double weight(int64_t index, float floor) const { return weights_[index] < floor ? 0.0 : double{weights_[index]}; }

  // The token at which the cumulative weight of the first `count`, in ascending token id, passes uniform * their sum. Reorders them.
  // Weights below `floor` count as zero.
  int32_t draw(int64_t count, float floor, double uniform);

 private:
  const SamplingKernels& kernels_;
  const float* logits_;
  int64_t vocabulary_;
  uint64_t* keys_;    // ascending keys are descending logits, then ascending token ids
  float* weights_;
  uint32_t* tokens_;
  int64_t count_ = 0;
};

}  // namespace manylora

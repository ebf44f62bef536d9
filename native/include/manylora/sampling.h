// From logits to tokens and log-probabilities.
//
// Everything is a function of the row alone: of its logits, its parameters and its `uniform` number. The vocabulary is walked in
// panels of 4096; within a panel fp32 sums run in the capability's lanes (scalar: one, in double), panels are added in double in
// ascending order. Ties go to the lowest token id. Minus infinity is probability zero. A row with a NaN, with plus infinity or
// with nothing but minus infinity has no distribution: its normalizer is NaN, and its token that of the largest logit that is not
// NaN.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "manylora/memory.h"

namespace manylora {

class Runtime;

constexpr int64_t kVocabularyPanel = 4096;

struct Highest {
  float value;  // the largest that is not NaN; minus infinity if there is none
  bool nan;     // there was a NaN
};

struct SamplingKernels {
  Highest (*highest)(const float* x, int64_t count);
  // The first index whose element equals `value`, or -1.
  int64_t (*find)(const float* x, int64_t count, float value);
  // weights = e^((x - highest) / temperature).
  void (*weigh)(const float* x, int64_t count, float highest, float temperature, float* weights);
  // The sum of those weights, but for those below `floor`. At most one panel.
  float (*sum_weights)(const float* x, int64_t count, float highest, float temperature, float floor);
  // Appends the indices of all elements that are not below `threshold`, ascending, to `to`; returns how many.
  int64_t (*collect)(const float* x, int64_t count, float threshold, uint32_t* to);
};

extern const SamplingKernels sampling_scalar, sampling_avx2, sampling_avx512bf16;

// What is asked of each row, and what was found. Arrays are plain; the caller writes the inputs before each call.
struct Sampler {
  // Throws std::invalid_argument unless max_rows is at least 1 and max_top at least 0.
  Sampler(int64_t max_rows, int64_t max_top);
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  int64_t max_rows, max_top;
  // Inputs, [max_rows].
  std::vector<float> temperature;  // 0: the most likely token
  std::vector<int32_t> top_k;      // 0 or less, or the vocabulary and more: off
  std::vector<float> top_p;        // above 0; 1 and more: off
  std::vector<float> min_p;        // of the most likely token's probability; 0: off
  std::vector<double> uniform;     // in [0, 1)
  std::vector<int32_t> top_count;  // at most max_top
  // Outputs.
  std::vector<int32_t> token;       // [max_rows]
  std::vector<float> normalizer;    // [max_rows], log of the sum of e^logit
  std::vector<int32_t> top_tokens;  // [max_rows, max_top], most likely first; -1 past the vocabulary
  std::vector<float> top_logprobs;  // [max_rows, max_top]
};

// Writes normalizer, top_tokens and top_logprobs of rows [0, rows) of logits float32 [rows, vocabulary].
// Throws std::invalid_argument when shapes do not fit or a parameter is out of range.
void logprobs(Runtime& runtime, int64_t rows, const Matrix& logits, Sampler& sampler);

// Writes token. Probabilities are those of logits / temperature; min_p, then top_k, then top_p (the fewest most likely tokens
// that together reach p of what is left) choose what is kept; then `uniform` is looked up in the cumulative distribution of the
// kept tokens in ascending token id. Throws std::invalid_argument when shapes do not fit or a parameter is out of range.
void sample(Runtime& runtime, int64_t rows, const Matrix& logits, Sampler& sampler);

}  // namespace manylora

#include "manylora/sampling.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "candidates.h"
#include "manylora/runtime.h"
#include "manylora/shape.h"

namespace manylora {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// How far below the largest logit (in temperatures) candidates are looked for, until there are enough.
constexpr float kReaches[] = {2.5f, 6.0f, 12.0f, 24.0f, kInfinity};
constexpr float kWidest = 24.0f;

// What a row keeps of its distribution.
struct Filter {
  float temperature;
  int32_t top_k;
  float top_p, min_p;
};

// One row of logits.
class Row {
 public:
  Row(const SamplingKernels& kernels, const float* logits, int64_t vocabulary)
      : kernels_(kernels), logits_(logits), vocabulary_(vocabulary) {
    const Highest found = kernels.highest(logits, vocabulary);
    highest_ = found.value;
    defined_ = !found.nan && std::isfinite(found.value);
  }

  // Whether the row has a distribution. If not, only most_likely() and top() mean something.
  bool defined() const { return defined_; }

  // Log of the sum of e^logit.
  float normalizer() const {
    return defined_ ? static_cast<float>(double{highest_} + std::log(sum(1.0f, 0.0f))) : std::numeric_limits<float>::quiet_NaN();
  }

  // The token of the largest logit that is not NaN; 0 if all are.
  int32_t most_likely() const {
    return static_cast<int32_t>(std::max<int64_t>(0, kernels_.find(logits_, vocabulary_, highest_)));
  }

  // Inverse of the cumulative distribution over the whole vocabulary.
  int32_t draw(float temperature, float floor, double uniform) const {
    const double target = uniform * sum(temperature, floor);
    double cumulative = 0.0;
    int64_t last = 0;  // panel to settle for, should rounding leave the target out of reach
    for (int64_t start = 0; start < vocabulary_; start += kVocabularyPanel) {
      const double panel = panel_sum(start, temperature, floor);
      if (panel > 0.0) last = start;
      if (cumulative + panel > target) return draw_in_panel(start, temperature, floor, target - cumulative);
      cumulative += panel;
    }
    return draw_in_panel(last, temperature, floor, static_cast<double>(kInfinity));
  }

  // The `count` most likely tokens and their log-probabilities.
  void top(int64_t count, float normalizer, Candidates& candidates, int32_t* tokens, float* logprobs) const {
    const int64_t wanted = std::min(count, vocabulary_);
    for (float reach : kReaches) {
      candidates.collect(threshold(reach, 1.0f));
      if (candidates.count() >= wanted) break;
    }
    candidates.most_likely(wanted, tokens);
    for (int64_t i = 0; i < wanted; ++i) logprobs[i] = logits_[tokens[i]] - normalizer;
    std::fill(tokens + wanted, tokens + count, -1);
    std::fill(logprobs + wanted, logprobs + count, -kInfinity);
  }

  // As sample() says, for a row whose top_k or top_p is on.
  int32_t draw_filtered(const Filter& filter, double uniform, Candidates& candidates) const {
    const bool few = filter.top_k > 0 && filter.top_k < vocabulary_;
    const double whole = few ? 0.0 : sum(filter.temperature, filter.min_p);
    for (float reach : kReaches) {
      const bool all = reach == kInfinity;
      candidates.collect(threshold(reach, filter.temperature));
      if (few && candidates.count() < filter.top_k && !all) continue;
      candidates.weigh(highest_, filter.temperature, filter.min_p);
      if (few) candidates.keep_count(filter.top_k);
      if (filter.top_p < 1.0f) {
        const double enough = double{filter.top_p} * (few ? candidates.sum() : whole);
        const float width = std::min(reach, kWidest) * filter.temperature;
        const bool kept = candidates.keep_mass(enough, highest_, width);
        if (!kept && !few && !all) continue;  // beyond the candidates there is more
      }
      break;
    }
    return candidates.draw(uniform);
  }

 private:
  // Sum of the weights that are not below `floor`, panel by panel.
  double sum(float temperature, float floor) const {
    double total = 0.0;
    for (int64_t start = 0; start < vocabulary_; start += kVocabularyPanel) total += panel_sum(start, temperature, floor);
    return total;
  }

  float threshold(float reach, float temperature) const {
    return reach == kInfinity || !defined_ ? -kInfinity : highest_ - reach * temperature;
  }

  double panel_sum(int64_t start, float temperature, float floor) const {
    const int64_t count = std::min(kVocabularyPanel, vocabulary_ - start);
    return double{kernels_.sum_weights(logits_ + start, count, highest_, temperature, floor)};
  }

  int32_t draw_in_panel(int64_t start, float temperature, float floor, double target) const {
    const int64_t count = std::min(kVocabularyPanel, vocabulary_ - start);
    alignas(64) float weights[kVocabularyPanel];
    kernels_.weigh(logits_ + start, count, highest_, temperature, weights);
    int64_t chosen = 0;
    double cumulative = 0.0;
    for (int64_t i = 0; i < count && !(cumulative > target); ++i) {
      if (weights[i] < floor || weights[i] == 0.0f) continue;
      chosen = i;
      cumulative += double{weights[i]};
    }
    return static_cast<int32_t>(start + chosen);
  }

  const SamplingKernels& kernels_;
  const float* logits_;
  const int64_t vocabulary_;
  float highest_;
  bool defined_;
};

// Calls work(row, scratch) for every row; rows that run at the same time get different scratch.
template <class Work>
void for_rows_with_scratch(Runtime& runtime, int64_t rows, int64_t bytes, const Work& work) {
  const int64_t lanes = std::min<int64_t>(rows, runtime.workers().threads());
  std::byte* scratch = runtime.scratch(static_cast<size_t>(std::max<int64_t>(1, lanes * bytes)));
  std::atomic<int64_t> next{0};
  runtime.workers().run(lanes, [&](int64_t lane) {
    for (int64_t row; (row = next.fetch_add(1, std::memory_order_relaxed)) < rows;) work(row, scratch + lane * bytes);
  });
}

[[noreturn]] void refuse(const char* name, int64_t row, const char* range) {
  throw std::invalid_argument(std::string(name) + "[" + std::to_string(row) + "] must be " + range);
}

void check_rows(int64_t rows, const Matrix& logits, const Sampler& sampler) {
  check(rows >= 0 && rows <= sampler.max_rows, "rows must be from 0 to the sampler's max_rows");
  check_matrix(logits, "logits", Dtype::float32, rows, logits.columns());
}

}  // namespace

Sampler::Sampler(int64_t rows, int64_t top) : max_rows(rows), max_top(top) {
  check(rows >= 1 && top >= 0, "a sampler needs max_rows of at least 1 and max_top of at least 0");
  const auto count = static_cast<size_t>(rows);
  temperature.resize(count);
  top_k.resize(count);
  top_p.resize(count, 1.0f);
  min_p.resize(count);
  uniform.resize(count);
  top_count.resize(count);
  token.resize(count);
  normalizer.resize(count);
  top_tokens.resize(count * static_cast<size_t>(top));
  top_logprobs.resize(count * static_cast<size_t>(top));
}

void logprobs(Runtime& runtime, int64_t rows, const Matrix& logits, Sampler& sampler) {
  check_rows(rows, logits, sampler);
  bool any_top = false;
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t count = sampler.top_count[static_cast<size_t>(row)];
    if (count < 0 || count > sampler.max_top) refuse("top_count", row, "from 0 to the sampler's max_top");
    any_top = any_top || count > 0;
  }
  const int64_t bytes = any_top ? Candidates::bytes(logits.columns()) : 0;
  for_rows_with_scratch(runtime, rows, bytes, [&](int64_t index, std::byte* scratch) {
    const auto row = static_cast<size_t>(index);
    const float* x = logits.floats() + index * logits.stride();
    const Row values(runtime.kernels().sampling, x, logits.columns());
    const float normalizer = sampler.normalizer[row] = values.normalizer();
    if (sampler.top_count[row] == 0) return;
    Candidates candidates(runtime.kernels().sampling, x, logits.columns(), scratch);
    const int64_t at = index * sampler.max_top;
    values.top(sampler.top_count[row], normalizer, candidates, sampler.top_tokens.data() + at, sampler.top_logprobs.data() + at);
  });
}

void sample(Runtime& runtime, int64_t rows, const Matrix& logits, Sampler& sampler) {
  check_rows(rows, logits, sampler);
  bool any_filter = false;
  const auto filtered = [&](size_t row) {
    const bool few = sampler.top_k[row] > 0 && sampler.top_k[row] < logits.columns();
    return sampler.temperature[row] > 0.0f && (few || sampler.top_p[row] < 1.0f);
  };
  for (int64_t index = 0; index < rows; ++index) {
    const auto row = static_cast<size_t>(index);
    const float temperature = sampler.temperature[row];
    if (!(temperature >= 0.0f && temperature < kInfinity)) refuse("temperature", index, "0 or more, finite");
    if (!(sampler.top_p[row] > 0.0f)) refuse("top_p", index, "above 0");
    if (!(sampler.min_p[row] >= 0.0f && sampler.min_p[row] <= 1.0f)) refuse("min_p", index, "from 0 to 1");
    if (!(sampler.uniform[row] >= 0.0 && sampler.uniform[row] < 1.0)) refuse("uniform", index, "from 0 to below 1");
    any_filter = any_filter || filtered(row);
  }
  const int64_t bytes = any_filter ? Candidates::bytes(logits.columns()) : 0;
  for_rows_with_scratch(runtime, rows, bytes, [&](int64_t index, std::byte* scratch) {
    const auto row = static_cast<size_t>(index);
    const float* x = logits.floats() + index * logits.stride();
    const Row values(runtime.kernels().sampling, x, logits.columns());
    const float temperature = sampler.temperature[row];
    if (temperature == 0.0f || !values.defined()) {
      sampler.token[row] = values.most_likely();
    } else if (!filtered(row)) {
      sampler.token[row] = values.draw(temperature, sampler.min_p[row], sampler.uniform[row]);
    } else {
      Candidates candidates(runtime.kernels().sampling, x, logits.columns(), scratch);
      const Filter filter{temperature, sampler.top_k[row], sampler.top_p[row], sampler.min_p[row]};
      sampler.token[row] = values.draw_filtered(filter, sampler.uniform[row], candidates);
    }
  });
}

}  // namespace manylora

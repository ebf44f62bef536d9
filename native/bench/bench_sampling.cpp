// From logits to tokens: 32 rows of SmolLM2's vocabulary, which the head has just written to caches.
#include <string>

#include "bench.h"
#include "manylora/sampling.h"
#include "synthetic.h"

namespace manylora::bench {
namespace {

constexpr int64_t kRows = 32, kVocabulary = 49152, kCalls = 5;

// Bell-shaped with a deviation of 2, and some tokens that stand out, as a model's do.
void fill_logits(Matrix& logits) {
  Noise noise;
  for (int64_t row = 0; row < kRows; ++row) {
    float* x = logits.floats() + row * logits.stride();
    for (int64_t i = 0; i < kVocabulary; ++i) x[i] = 2.0f * (noise.next() + noise.next() + noise.next());
    for (int64_t i = 0; i < 24; ++i) x[(row + i * 2039) % kVocabulary] = 14.0f - 0.25f * static_cast<float>(i);
  }
}

struct Request {
  const char* name;
  float temperature, top_p;
  int32_t top_k;
  double operations;  // per logit
};

}  // namespace

void bench_sampling(Bench& bench) {
  Matrix logits(kRows, kVocabulary, Dtype::float32);
  fill_logits(logits);
  Sampler sampler(kRows, 5);
  const double count = static_cast<double>(kRows * kVocabulary);
  std::vector<Pass> passes;
  const auto add = [&](const char* name, double operations, const std::function<void()>& call) {
    const Line line{"sampling", "32 rows of 49152", name, count * 4, {0.0, 0.0, count * operations}, true, kCalls};
    passes.push_back({{line}, [call](Stopwatch& stopwatch) {
                        for (int64_t i = 0; i < kCalls; ++i) call(), stopwatch.lap();
                      }});
  };
  for (const Request& request : {Request{"greedy", 0.0f, 1.0f, 0, 1}, Request{"temperature", 0.8f, 1.0f, 0, kExpOperations},
                                 Request{"top-p 0.9", 0.8f, 0.9f, 0, kExpOperations}, Request{"top-k 40", 0.8f, 1.0f, 40, 1}}) {
    add(request.name, request.operations, [&bench, &logits, &sampler, request] {
      std::fill(sampler.temperature.begin(), sampler.temperature.end(), request.temperature);
      std::fill(sampler.top_p.begin(), sampler.top_p.end(), request.top_p);
      std::fill(sampler.top_k.begin(), sampler.top_k.end(), request.top_k);
      std::fill(sampler.uniform.begin(), sampler.uniform.end(), 0.6);
      sample(bench.runtime(), kRows, logits, sampler);
    });
  }
  add("log-probabilities, top 5", kExpOperations, [&] {
    std::fill(sampler.top_count.begin(), sampler.top_count.end(), 5);
    logprobs(bench.runtime(), kRows, logits, sampler);
  });
  bench.measure(passes);
}

}  // namespace manylora::bench

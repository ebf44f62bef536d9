// One fixed step of a small Llama-like model, for counting its instructions (make instructions), not for timing it.
//
//   step compiler                           prints which compiler built it
//   step CAPABILITY alone|base|mixed|int8   runs that step once, on one thread
//
//   alone   one sequence decodes one token
//   base    twelve decode, two prefill a chunk, one of them across a partition of attention
//   mixed   the same with adapters of four ranks
//   int8    as base, with int8 weights
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "manylora/attention.h"
#include "manylora/embedding.h"
#include "manylora/linear.h"
#include "manylora/norm.h"
#include "manylora/rotary.h"
#include "manylora/runtime.h"
#include "manylora/sampling.h"
#include "synthetic.h"

using namespace manylora;
using namespace manylora::bench;

namespace {

constexpr ModelShape kShape{"small", 2, 384, 1024, 6, 2, 64, 8200};
constexpr float kEps = 1e-5f;
constexpr int64_t kMaxRows = 80, kMaxSequences = 16, kMaxContext = 1024;

std::vector<Chunk> chunks_of(const std::string& name) {
  if (name == "alone") return {{1, 600}};
  std::vector<Chunk> chunks;
  for (int64_t i = 0; i < 12; ++i) chunks.push_back({1, 30 + 61 * i});
  chunks.push_back({40, 530});
  chunks.push_back({21, 21});
  return chunks;
}

struct Model {
  Model(Runtime& runtime_, Quantization quantization)
      : runtime(runtime_),
        layers(make_layers(runtime, kShape, quantization, noise)),
        head(make_linear(runtime, head_of(kShape), quantization, noise)) {
    noise.fill(embedding);
    noise.fill(cosine);
    noise.fill(sine);
    for (int64_t i = 0; i < kShape.hidden; ++i) norm.floats()[i] = 1.0f;
    for (int64_t rank : {3, 8, 16, 64}) adapters.push_back(std::make_unique<Resident>(layers, rank, noise));
  }

  Runtime& runtime;
  Noise noise;
  std::vector<Linear> layers;
  Linear head;
  std::vector<std::unique_ptr<Resident>> adapters;
  Matrix embedding{kShape.vocabulary, kShape.hidden, Dtype::bfloat16};
  Matrix norm{1, kShape.hidden, Dtype::float32};
  Matrix cosine{kMaxContext, kShape.head_dim / 2, Dtype::float32};
  Matrix sine{kMaxContext, kShape.head_dim / 2, Dtype::float32};
};

struct Buffers {
  Matrix hidden{kMaxRows, kShape.hidden, Dtype::float32};
  Matrix normed{kMaxRows, kShape.hidden, Dtype::bfloat16};
  Matrix qkv{kMaxRows, kShape.q_columns() + 2 * kShape.kv_columns(), Dtype::float32};
  Matrix query{kMaxRows, kShape.q_columns(), Dtype::bfloat16};
  Matrix attended{kMaxRows, kShape.q_columns(), Dtype::bfloat16};
  Matrix activated{kMaxRows, kShape.intermediate, Dtype::bfloat16};
  Matrix last{kMaxSequences, kShape.hidden, Dtype::float32};
  Matrix last_normed{kMaxSequences, kShape.hidden, Dtype::bfloat16};
  Matrix logits{kMaxSequences, kShape.vocabulary, Dtype::float32};
};

// The adapters of the mixed step: two sequences of the base model, then ranks 3, 8, 64, and the chunks 16 and 8.
void add_adapters(Segments& segments, const Model& model) {
  segments.add(2, 4, model.adapters[0]->adapter);
  segments.add(4, 8, model.adapters[1]->adapter);
  segments.add(8, 12, model.adapters[3]->adapter);
  segments.add(12, 52, model.adapters[2]->adapter);
  segments.add(52, 73, model.adapters[1]->adapter);
}

// Every second row greedy; of the others most with top_p, some with top_k, one with neither. Two rows want log-probabilities.
void set_up(Sampler& sampler) {
  for (size_t row = 0; row < static_cast<size_t>(sampler.max_rows); ++row) {
    sampler.temperature[row] = row % 2 == 0 ? 0.0f : 0.8f;
    sampler.top_p[row] = row == 3 ? 1.0f : 0.9f;
    sampler.top_k[row] = row % 4 == 1 ? 40 : 0;
    sampler.uniform[row] = 0.6;
    sampler.top_count[row] = row % 8 == 2 ? 5 : 0;
  }
}

}  // namespace

// What is counted: a forward pass, logits of each sequence's last row, log-probabilities and tokens.
[[gnu::noinline]] void measured_step(Model& model, const Batch& batch, const Segments& segments, const KvCache& kv, Buffers& at,
                                     Sampler& sampler) {
  Runtime& run = model.runtime;
  const int64_t rows = batch.rows(), last = batch.sequences();
  embed(run, batch, model.embedding, at.hidden);
  for (int64_t layer = 0; layer < kShape.layers; ++layer) {
    const int64_t site = layer * kSites;
    const Linear* weights = &model.layers[static_cast<size_t>(site)];
    rms_norm(run, rows, at.hidden, model.norm, kEps, at.normed);
    linear(run, rows, segments, at.normed, weights[0], site, at.qkv, false);
    rotary(run, batch, at.qkv, model.cosine, model.sine, kv, layer, at.query, kShape.heads, {nullptr, nullptr, kEps});
    attention(run, batch, at.query, kv, layer, at.attended);
    linear(run, rows, segments, at.attended, weights[1], site + 1, at.hidden, true);
    rms_norm(run, rows, at.hidden, model.norm, kEps, at.normed);
    gated_linear(run, rows, segments, at.normed, weights[2], site + 2, at.activated);
    linear(run, rows, segments, at.activated, weights[3], site + 3, at.hidden, true);
  }
  gather(run, batch, last, at.hidden, at.last);
  rms_norm(run, last, at.last, model.norm, kEps, at.last_normed);
  linear(run, last, Segments(0), at.last_normed, model.head, -1, at.logits, false);
  logprobs(run, last, at.logits, sampler);
  sample(run, last, at.logits, sampler);
}

int main(int argc, char** argv) try {
  if (argc == 2 && std::string(argv[1]) == "compiler") {
#ifdef __clang__
    std::printf("clang %d.%d.%d\n", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
    std::printf("gcc %d.%d.%d\n", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
    return 0;
  }
  const std::string name = argc == 3 ? argv[2] : "";
  if (name != "alone" && name != "base" && name != "mixed" && name != "int8") {
    std::fprintf(stderr, "usage: step compiler | step CAPABILITY alone|base|mixed|int8\n");
    return 2;
  }
  Runtime runtime(1, argv[1]);
  Model model(runtime, name == "int8" ? Quantization::int8 : Quantization::none);
  Buffers buffers;
  const Step step(chunks_of(name));
  const Memory arena(static_cast<size_t>(step.blocks * kv_block_bytes(kShape.layers, kShape.kv_heads, kShape.head_dim)));
  model.noise.fill(reinterpret_cast<bf16*>(arena.data()), static_cast<int64_t>(arena.bytes()) / 2);
  const KvCache kv(arena, kShape.layers, kShape.kv_heads, kShape.head_dim);
  Segments segments(5);
  segments.reset(step.batch.rows());
  if (name == "mixed") add_adapters(segments, model);
  Sampler sampler(kMaxSequences, 5);
  set_up(sampler);
  measured_step(model, step.batch, segments, kv, buffers, sampler);
  for (int64_t i = 0; i < step.batch.sequences(); ++i) std::printf("%d ", sampler.token[static_cast<size_t>(i)]);
  std::printf("\n");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "step: %s\n", error.what());
  return 1;
}

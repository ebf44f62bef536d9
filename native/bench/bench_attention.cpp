// Attention of one layer: decode steps over more K and V than caches hold, and whole prompts.
#include <cmath>
#include <string>

#include "bench.h"
#include "manylora/attention.h"
#include "synthetic.h"

namespace manylora::bench {
namespace {

constexpr double kBeyondCaches = 512e6;  // bytes
constexpr int64_t kPromptLayers = 4;

struct Heads {
  const char* name;
  int64_t heads, kv_heads, head_dim;
};

void bench_load(Bench& bench, const Heads& shape, int64_t sequences, const Chunk& chunk) {
  const Step step(std::vector<Chunk>(static_cast<size_t>(sequences), chunk));
  const bool decode = chunk.rows == 1;
  const auto tokens = static_cast<double>(sequences * chunk.context);
  const double bytes = tokens * static_cast<double>(shape.kv_heads * shape.head_dim * 4);
  const int64_t layers = decode ? static_cast<int64_t>(std::ceil(kBeyondCaches / bytes)) : kPromptLayers;
  const Memory arena(static_cast<size_t>(step.blocks * kv_block_bytes(layers, shape.kv_heads, shape.head_dim)));
  Noise noise;
  noise.fill(reinterpret_cast<bf16*>(arena.data()), static_cast<int64_t>(arena.bytes()) / 2);
  const KvCache kv(arena, layers, shape.kv_heads, shape.head_dim);
  const int64_t columns = shape.heads * shape.head_dim;
  Matrix q(step.batch.rows(), columns, Dtype::bfloat16), out(step.batch.rows(), columns, Dtype::bfloat16);
  noise.fill(q);
  const double pairs = decode ? tokens : 0.5 * static_cast<double>(chunk.rows * (2 * chunk.context - chunk.rows + 1));
  const std::string what = decode ? "32 x 1 row, context " : "prompt of ";
  Line line{"attention", shape.name, what + std::to_string(chunk.context), bytes};
  line.operations[kProducts] = 4.0 * pairs * static_cast<double>(columns);
  line.operations[kVectors] = kExpOperations * pairs * static_cast<double>(shape.heads);
  line.cached = !decode;
  line.times = layers;
  bench.measure({{{line}, [&](Stopwatch& stopwatch) {
                    for (int64_t layer = 0; layer < layers; ++layer) {
                      attention(bench.runtime(), step.batch, q, kv, layer, out);
                      stopwatch.lap();
                    }
                  }}});
}

}  // namespace

void bench_attention(Bench& bench) {
  for (const Heads& shape : {Heads{"9/3 heads of 64", 9, 3, 64}, Heads{"32/8 heads of 64", 32, 8, 64}}) {
    for (int64_t context : {256, 2048}) bench_load(bench, shape, 32, {1, context});
    for (int64_t prompt : {128, 512, 2048}) {
      if (!bench.quick() || prompt == 512) bench_load(bench, shape, 1, {prompt, prompt});
    }
  }
}

}  // namespace manylora::bench

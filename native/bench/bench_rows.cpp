// What happens row by row between the products: norm, rotary, activation, embedding. They find their rows in caches, in a step
// as here.
#include <string>

#include "bench.h"
#include "manylora/activation.h"
#include "manylora/embedding.h"
#include "manylora/norm.h"
#include "manylora/rotary.h"
#include "synthetic.h"

namespace manylora::bench {
namespace {

constexpr int64_t kCalls = 50;  // in a lap: some take but a microsecond

// Bytes and operations are of one element, `elements` times.
template <class Call>
void bench_calls(Bench& bench, const char* family, const std::string& shape, int64_t rows, double elements, double bytes,
                 double operations, const Call& call) {
  Line line{family, shape, std::to_string(rows) + (rows == 1 ? " row" : " rows"), elements * bytes};
  line.operations[kVectors] = elements * operations;
  line.cached = true;
  line.times = kCalls;
  bench.measure({{{line}, [&](Stopwatch& stopwatch) {
                    for (int64_t i = 0; i < kCalls; ++i) call();
                    stopwatch.lap();
                  }}});
}

void bench_norm(Bench& bench, const ModelShape& shape, int64_t rows, Noise& noise) {
  Matrix x(rows, shape.hidden, Dtype::float32), weight(1, shape.hidden, Dtype::float32), y(rows, shape.hidden, Dtype::bfloat16);
  noise.fill(x);
  noise.fill(weight);
  bench_calls(bench, "norm", "hidden " + std::to_string(shape.hidden), rows, static_cast<double>(rows * shape.hidden), 6, 4,
              [&] { rms_norm(bench.runtime(), rows, x, weight, 1e-5f, y); });
}

void bench_activation(Bench& bench, const ModelShape& shape, int64_t rows, Noise& noise) {
  Matrix gate_up(rows, 2 * shape.intermediate, Dtype::float32), y(rows, shape.intermediate, Dtype::bfloat16);
  noise.fill(gate_up, 4.0f);
  const auto elements = static_cast<double>(rows * shape.intermediate);
  bench_calls(bench, "activation", "intermediate " + std::to_string(shape.intermediate), rows, elements, 10, kExpOperations + 4,
              [&] { silu_multiply(bench.runtime(), rows, gate_up, y); });
}

void bench_rotary(Bench& bench, const ModelShape& shape, int64_t rows, Noise& noise) {
  const Step step(std::vector<Chunk>(static_cast<size_t>(rows), {1, 256}));
  const Memory arena(static_cast<size_t>(step.blocks * kv_block_bytes(1, shape.kv_heads, shape.head_dim)));
  const KvCache kv(arena, 1, shape.kv_heads, shape.head_dim);
  Matrix qkv(rows, shape.q_columns() + 2 * shape.kv_columns(), Dtype::float32), q(rows, shape.q_columns(), Dtype::bfloat16);
  Matrix cosine(256, shape.head_dim / 2, Dtype::float32), sine(256, shape.head_dim / 2, Dtype::float32);
  for (Matrix* matrix : {&qkv, &cosine, &sine}) noise.fill(*matrix);
  const std::string name = std::to_string(shape.heads) + "/" + std::to_string(shape.kv_heads) + " heads of 64";
  bench_calls(bench, "rotary", name, rows, static_cast<double>(rows * qkv.columns()), 6, 3,
              [&] { rotary(bench.runtime(), step.batch, qkv, cosine, sine, kv, 0, q, shape.heads, {nullptr, nullptr, 0.0f}); });
}

void bench_embedding(Bench& bench, const ModelShape& shape, int64_t rows, Noise& noise) {
  const Step step(std::vector<Chunk>(static_cast<size_t>(rows), {1, 1}));
  Matrix table(shape.vocabulary, shape.hidden, Dtype::bfloat16), x(rows, shape.hidden, Dtype::float32);
  noise.fill(table);
  bench_calls(bench, "embedding", "hidden " + std::to_string(shape.hidden), rows, static_cast<double>(rows * shape.hidden), 6, 0,
              [&] { embed(bench.runtime(), step.batch, table, x); });
}

}  // namespace

void bench_rows(Bench& bench) {
  Noise noise;
  const ModelShape small{"SmolLM2-135M", 1, 576, 1536, 9, 3, 64, 49152}, large{"Llama-3.2-1B", 1, 2048, 8192, 32, 8, 64, 49152};
  for (const auto family : {bench_norm, bench_rotary, bench_activation, bench_embedding}) {
    for (const ModelShape& shape : {small, large}) {
      for (int64_t rows : {1, 32, 512}) {
        if (!bench.quick() || rows == 32) family(bench, shape, rows, noise);
      }
    }
  }
}

}  // namespace manylora::bench

// Attention of one layer: decode steps and prompt chunks, beside what the instructions or the memory would allow.
//
//   bench_attention [threads] [capability] [repetitions]
//
// Times are the best of the repetitions. One thread is timed by its own processor time, which others on a busy machine disturb
// less.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <numeric>
#include <random>
#include <vector>

#include "manylora/attention.h"
#include "manylora/runtime.h"

using namespace manylora;

namespace {

struct Shape {
  const char* name;
  int64_t kv_heads, group, head_dim;
};

// `sequences` with `rows` new rows each, the last at position context - 1.
struct Load {
  int64_t sequences, rows, context;
};

double now(int threads) {
  timespec time;
  clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void fill(bf16* values, size_t count) {
  std::mt19937 generator{1};
  for (size_t i = 0; i < count; ++i) values[i] = to_bf16(static_cast<float>(generator() % 2001) / 1000.0f - 1.0f);
}

void begin(Batch& batch, const Load& load, int64_t blocks_each) {
  std::vector<int32_t> ids(static_cast<size_t>(load.sequences * blocks_each));
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937{2});
  std::copy(ids.begin(), ids.end(), batch.block_tables());
  for (int64_t s = 0; s < load.sequences; ++s) {
    batch.sequence_starts()[s + 1] = static_cast<int32_t>((s + 1) * load.rows);
    batch.sequence_slots()[s] = static_cast<int32_t>(s);
    for (int64_t r = 0; r < load.rows; ++r) {
      batch.positions()[s * load.rows + r] = static_cast<int32_t>(load.context - load.rows + r);
    }
  }
  batch.begin(load.sequences * load.rows, load.sequences);
}

void bench(Runtime& runtime, const Shape& shape, const Load& load, int repetitions) {
  const int64_t blocks_each = (load.context + kBlockTokens - 1) / kBlockTokens, layers = 8;  // layers apart, as a step finds them
  const int64_t rows = load.sequences * load.rows, columns = shape.kv_heads * shape.group * shape.head_dim;
  Memory arena(static_cast<size_t>(load.sequences * blocks_each * kv_block_bytes(layers, shape.kv_heads, shape.head_dim)));
  fill(reinterpret_cast<bf16*>(arena.data()), arena.bytes() / 2);
  const KvCache kv(arena, layers, shape.kv_heads, shape.head_dim);
  Batch batch(rows, load.sequences, load.sequences, blocks_each);
  begin(batch, load, blocks_each);
  Matrix q(rows, columns, Dtype::bfloat16), out(rows, columns, Dtype::bfloat16);
  fill(q.bf16s(), static_cast<size_t>(q.rows() * q.stride()));
  double best = 1e9;
  for (int i = 0; i < repetitions; ++i) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      const double start = now(runtime.workers().threads());
      attention(runtime, batch, q, kv, layer, out);
      best = std::min(best, now(runtime.workers().threads()) - start);
    }
  }
  const double pairs = static_cast<double>(load.sequences) * static_cast<double>(load.rows) *
                       (static_cast<double>(load.context) - 0.5 * static_cast<double>(load.rows - 1));
  const double bytes = static_cast<double>(load.sequences * load.context * shape.kv_heads * shape.head_dim * 4);
  std::printf("%-8s %3ld sequences x %4ld rows, context %5ld: %9.1f us  %6.1f GFLOP/s  %6.1f GB/s of K and V\n", shape.name,
              static_cast<long>(load.sequences), static_cast<long>(load.rows), static_cast<long>(load.context), best * 1e6,
              pairs * static_cast<double>(columns) * 4e-9 / best, bytes * 1e-9 / best);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  Runtime runtime(threads, argc > 2 ? argv[2] : name_of(available_capabilities().back()));
  const int repetitions = argc > 3 ? std::atoi(argv[3]) : 5;
  const Shape shapes[] = {{"135M", 3, 3, 64}, {"8B", 8, 4, 128}, {"qwen-0.5", 2, 7, 64}};
  for (const Shape& shape : shapes) {
    for (const Load& load : {Load{1, 1, 256}, Load{1, 1, 2048}, Load{32, 1, 256}, Load{32, 1, 1024}, Load{1, 512, 512},
                             Load{1, 512, 2048}, Load{8, 64, 64}}) {
      bench(runtime, shape, load, repetitions);
    }
  }
  return 0;
}

// The linear layers of a SmolLM2-135M pass, with and without adapters, beside a plain read of the same weights.
//
//   bench_linear [threads] [capability] [repetitions] [none|int8]
//
// Variants are interleaved, repetition by repetition. "best" is the sum over the products of each one's best time, what the
// machine can do when nobody else uses it; "med" is the median of whole passes, what it did.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "manylora/linear.h"
#include "manylora/runtime.h"

using namespace manylora;

namespace {

constexpr int64_t kLayers = 30;

// Seconds: of this thread's own processor time if it works alone, which others on a busy machine disturb less.
clockid_t clock_id = CLOCK_MONOTONIC;

double now() {
  timespec time;
  clock_gettime(clock_id, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Site {
  std::vector<int64_t> columns;
  int64_t depth;
};

const std::vector<Site> kSites = {{{576, 192, 192}, 576}, {{576}, 576}, {{1536, 1536}, 576}, {{576}, 1536}};
const Site kHead = {{49152}, 576};

struct Random {
  std::mt19937 generator{1};
  void fill(bf16* values, size_t count) {
    for (size_t i = 0; i < count; ++i) values[i] = to_bf16(static_cast<float>(generator() % 2001) / 1000.0f - 1.0f);
  }
};

std::unique_ptr<Linear> make_weight(Runtime& runtime, const Site& site, Random& random, Quantization quantization) {
  std::vector<std::vector<bf16>> weights;
  std::vector<WeightPart> parts;
  for (int64_t columns : site.columns) {
    weights.emplace_back(static_cast<size_t>(columns * site.depth));
    random.fill(weights.back().data(), weights.back().size());
  }
  for (size_t i = 0; i < weights.size(); ++i) parts.push_back({weights[i].data(), site.columns[i], nullptr});
  return std::make_unique<Linear>(runtime, parts, site.depth, quantization);
}

// All seven projections of all layers. Packed bytes need no meaning here, only values.
struct Resident {
  Resident(const std::vector<std::unique_ptr<Linear>>& weights, int64_t rank, Random& random)
      : arena(size_for(weights, rank)), adapter(arena) {
    random.fill(reinterpret_cast<bf16*>(arena.data()), arena.bytes() / 2);
    int64_t offset = 0;
    for (int64_t site = 0; site < kLayers * 4; ++site) {
      const Linear& weight = *weights[static_cast<size_t>(site)];
      for (size_t part = 0; part < weight.part_columns().size(); ++part) {
        const int64_t a = offset, b = a + lora_a_bytes(rank, weight.depth());
        offset = b + lora_b_bytes(rank, weight.part_columns()[part], weight.width());
        adapter.set(site, static_cast<int64_t>(part), {rank, 0.01f, a, b, -1, -1});
      }
    }
  }
  static size_t size_for(const std::vector<std::unique_ptr<Linear>>& weights, int64_t rank) {
    int64_t bytes = 0;
    for (int64_t site = 0; site < kLayers * 4; ++site) {
      const Linear& weight = *weights[static_cast<size_t>(site)];
      for (int64_t columns : weight.part_columns())
        bytes += lora_a_bytes(rank, weight.depth()) + lora_b_bytes(rank, columns, weight.width());
    }
    return static_cast<size_t>(bytes);
  }
  Memory arena;
  Adapter adapter;
};

struct Times {
  std::vector<double> each, passes;

  void add(size_t index, double seconds) {
    if (index >= each.size()) each.resize(index + 1, 1e9);
    each[index] = std::min(each[index], seconds);
  }
  double best() const { return std::accumulate(each.begin(), each.end(), 0.0) * 1e3; }
  double median() {
    std::sort(passes.begin(), passes.end());
    return passes[passes.size() / 2] * 1e3;
  }
};

struct Pass {
  Runtime& runtime;
  const std::vector<std::unique_ptr<Linear>>& weights;
  std::vector<std::unique_ptr<Matrix>> x, y;

  Pass(Runtime& runtime_, const std::vector<std::unique_ptr<Linear>>& weights_, int64_t rows, Random& random)
      : runtime(runtime_), weights(weights_) {
    for (const auto& weight : weights) {
      if (x.size() < 5) {
        const bool head = &weight == &weights.back();
        if (x.size() == 4 && !head) continue;
        x.push_back(std::make_unique<Matrix>(rows, weight->depth(), Dtype::bfloat16));
        y.push_back(std::make_unique<Matrix>(rows, weight->columns(), Dtype::float32));
        random.fill(x.back()->bf16s(), static_cast<size_t>(rows * x.back()->stride()));
      }
    }
  }
  void run(const Segments& segments, int64_t rows, bool head, Times& times) {
    const int64_t products = kLayers * 4 + (head ? 1 : 0);
    const double start = now();
    double last = start;
    for (int64_t site = 0; site < products; ++site) {
      const auto place = static_cast<size_t>(site < kLayers * 4 ? site % 4 : 4);
      linear(runtime, rows, segments, *x[place], *weights[static_cast<size_t>(site)], place < 4 ? site : -1, *y[place], false);
      times.add(static_cast<size_t>(site), now() - last);
      last = now();
    }
    times.passes.push_back(now() - start);
  }
};

void read_all(Runtime& runtime, const std::vector<std::unique_ptr<Linear>>& weights, Times& times) {
  static std::atomic<uint64_t> sink;  // keeps the reads from being optimised away
  constexpr int64_t kPieces = 16;
  for (size_t i = 0; i < weights.size(); ++i) {
    const double start = now();
    const size_t lines = weights[i]->bytes() / 64 / kPieces;
    runtime.workers().run(kPieces, [&](int64_t piece) {
      const auto* words = reinterpret_cast<const uint64_t*>(weights[i]->panel(0)) + static_cast<size_t>(piece) * lines * 8;
      uint64_t sum[8] = {};
      for (size_t k = 0; k < lines; ++k) {
        for (size_t j = 0; j < 8; ++j) sum[j] ^= words[k * 8 + j];
      }
      sink = sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
    });
    times.add(i, now() - start);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  if (threads == 1) clock_id = CLOCK_THREAD_CPUTIME_ID;
  Runtime runtime(threads, argc > 2 ? argv[2] : name_of(available_capabilities().back()));
  const int repetitions = argc > 3 ? std::atoi(argv[3]) : 9;
  const bool int8 = argc > 4 && std::strcmp(argv[4], "int8") == 0;
  const Quantization quantization = int8 ? Quantization::int8 : Quantization::none;
  Random random;
  std::vector<std::unique_ptr<Linear>> weights;
  double parameters = 0;
  const double bytes = int8 ? 1 : 2;  // of one
  for (int64_t site = 0; site < kLayers * 4; ++site)
    weights.push_back(make_weight(runtime, kSites[static_cast<size_t>(site % 4)], random, quantization));
  weights.push_back(make_weight(runtime, kHead, random, quantization));
  for (const auto& weight : weights) parameters += static_cast<double>(weight->columns() * weight->depth());
  std::vector<std::unique_ptr<Resident>> adapters;
  for (int i = 0; i < 16; ++i) adapters.push_back(std::make_unique<Resident>(weights, 16, random));
  std::printf("%s, %d threads, %.1f MB of weights, %.1f MB per adapter of rank 16\n", name_of(runtime.capability()), threads,
              parameters * bytes * 1e-6, static_cast<double>(adapters[0]->arena.bytes()) * 1e-6);
  std::printf("%5s %9s | %8s %8s %7s %8s | %8s %8s %7s | read ms\n", "rows", "adapters", "base min", "med", "GB/s", "GFLOP/s",
              "lora min", "med", "added");
  for (const auto& [rows, count] : {std::pair{1, 1},
                                    {2, 2},
                                    {4, 4},
                                    {8, 8},
                                    {12, 12},
                                    {16, 16},
                                    {24, 16},
                                    {32, 1},
                                    {32, 16},
                                    {64, 16},
                                    {128, 16},
                                    {512, 1},
                                    {512, 16}}) {
    Pass pass(runtime, weights, rows, random);
    Segments none(0), mixed(count);
    mixed.reset(rows);
    for (int i = 0; i < count; ++i)
      mixed.add(i * rows / count, (i + 1) * rows / count, adapters[static_cast<size_t>(i)]->adapter);
    const bool head = rows < 512;  // prefill needs the head for last rows only
    const double work = head ? parameters : parameters - 576.0 * 49152;
    Times base, lora, read;
    for (int i = 0; i < (rows < 100 ? repetitions : (repetitions + 2) / 3); ++i) {
      read_all(runtime, weights, read);
      pass.run(none, rows, head, base);
      pass.run(mixed, rows, head, lora);
    }
    std::printf("%5d %9d | %8.2f %8.2f %7.1f %8.1f | %8.2f %8.2f %6.1f%% | %.2f\n", rows, count, base.best(), base.median(),
                work * bytes * 1e-6 / base.best(), work * 2e-6 * rows / base.best(), lora.best(), lora.median(),
                (lora.best() / base.best() - 1) * 100, read.best());
    std::fflush(stdout);
  }
}

// Timing of kernels beside what the machine allows: passes, their lines in the table, and the probes around them.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "manylora/memory.h"
#include "manylora/runtime.h"

namespace manylora::bench {

struct Options {
  std::string capability = name_of(available_capabilities().back());
  std::string family;  // empty: all
  std::string json;    // file, or empty
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  int repetitions = 9;
  bool quick = false;
};

// What computes: products of bf16, products of int8, everything else.
enum Unit { kProducts, kInt8Products, kVectors, kUnits };

constexpr double kExpOperations = 20.0;  // of e^x, about

using Operations = std::array<double, kUnits>;  // of each unit

// What the machine gave in one moment, per second, all threads together.
struct Limits {
  double bandwidth = 0.0;
  Operations peaks{};
};

// One line of the table, and the least that a pass must move and compute for it.
struct Line {
  std::string family, shape, variant;
  double bytes = 0.0;
  Operations operations{};
  bool cached = false;  // the bytes are not in memory but in caches, as they are in a step: the fraction may exceed 1
  int64_t times = 1;    // equal calls in a pass: what is printed is of one
};

// Part of a pass: the line it belongs to, and its seconds.
struct Split {
  size_t line;
  double seconds;
};

// Timing the parts of a pass, one after the other.
class Stopwatch {
 public:
  void start() { last_ = std::chrono::steady_clock::now(), laps_.clear(); }

  // What was done since the last lap belongs to this line, and to line 0, which is the whole pass.
  void lap(size_t line = 0) {
    const auto now = std::chrono::steady_clock::now();
    laps_.push_back({line, std::chrono::duration<double>(now - last_).count()});
    last_ = std::chrono::steady_clock::now();
  }
  const std::vector<Split>& laps() const { return laps_; }

 private:
  std::chrono::steady_clock::time_point last_;
  std::vector<Split> laps_;
};

// Work that is done again and again. Every repetition makes the same laps.
struct Pass {
  std::vector<Line> lines;  // the whole pass first
  std::function<void(Stopwatch&)> run;
  bool compared = false;  // with the first pass of its group
};

// The times of one line in seconds. Best is the sum over the laps of each one's best time, what the machine can do when nobody
// else uses it; median is of whole passes, what it did.
struct Timing {
  double best, median;
};

class Bench {
 public:
  explicit Bench(const Options& options);

  Runtime& runtime() { return runtime_; }
  bool quick() const { return options_.quick; }

  // Runs the passes in turn, repetition by repetition, between two probes of the machine, and prints their lines. The better of
  // the two probes counts. Throws std::runtime_error when the file of the options cannot be written.
  void measure(const std::vector<Pass>& passes);

 private:
  Limits probe();
  void save() const;  // all lines so far
  void print(const Line& line, const Timing& times, const Limits& limits, double first_best);

  Options options_;
  Runtime runtime_, vectors_;   // the second for the arithmetic of everything but products
  std::vector<Memory> pieces_;  // that the probe reads: together more than caches hold
  std::string json_;
};

// The families. Each prints its own lines.
void bench_linear(Bench& bench);  // and the adapters on top
void bench_attention(Bench& bench);
void bench_rows(Bench& bench);  // norm, rotary, activation, embedding
void bench_sampling(Bench& bench);

}  // namespace manylora::bench

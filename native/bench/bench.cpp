#include "bench.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "manylora/probe.h"

namespace manylora::bench {
namespace {

constexpr size_t kProbeBytes = size_t{640} << 20;

// Everything but products runs on vectors, also where products have tiles.
std::string vector_capability(const std::string& capability) { return capability == "amx" ? "avx512bf16" : capability; }

std::vector<Times> summarize(const Pass& pass, const std::vector<std::vector<Lap>>& repetitions) {
  std::vector<Times> found(pass.lines.size());
  for (size_t line = 0; line < pass.lines.size(); ++line) {
    double best = 0.0;
    std::vector<double> sums(repetitions.size());
    for (size_t lap = 0; lap < repetitions[0].size(); ++lap) {
      if (line != 0 && repetitions[0][lap].line != line) continue;
      double least = std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < repetitions.size(); ++i) {
        const double seconds = repetitions[i][lap].seconds;
        least = std::min(least, seconds);
        sums[i] += seconds;
      }
      best += least;
    }
    std::nth_element(sums.begin(), sums.begin() + static_cast<int64_t>(sums.size() / 2), sums.end());
    const double times = static_cast<double>(pass.lines[line].times);
    found[line] = {best / times, sums[sums.size() / 2] / times};
  }
  return found;
}

}  // namespace

Bench::Bench(const Options& options)
    : options_(options),
      runtime_(options.threads, options.capability),
      vectors_(options.threads, vector_capability(options.capability)),
      memory_(kProbeBytes) {
  std::memset(memory_.data(), 1, memory_.bytes());
  const Limits limits = probe();
  std::printf("%s, %d threads: reads %.1f GB/s, products %.0f GFLOP/s, other arithmetic %.0f GFLOP/s\n",
              options.capability.c_str(), options.threads, limits.bandwidth * 1e-9, limits.products * 1e-9,
              limits.vectors * 1e-9);
  std::printf("limit: the longer of bytes / bandwidth (mem) and operations / peak (ops), as probed around each group of lines\n");
  std::printf("*: the bytes are in caches, as they are in a step, so the fraction may exceed 1\n\n");
  std::printf("%-10s %-24s %-30s %10s %10s %9s %9s %7s %8s %7s %9s\n", "family", "shape", "variant", "best us", "median us", "MB",
              "MFLOP", "GB/s", "GFLOP/s", "added", "of limit");
}

Limits Bench::probe() {
  Limits best{};
  for (int i = 0; i < 3; ++i) {
    best.bandwidth = std::max(best.bandwidth, probe_read(runtime_, memory_));
    best.products = std::max(best.products, probe_bf16_products(runtime_));
    best.vectors = std::max(best.vectors, probe_bf16_products(vectors_));
  }
  return best;
}

void Bench::measure(const std::vector<Pass>& passes) {
  Stopwatch stopwatch;
  for (const Pass& pass : passes) stopwatch.start(), pass.run(stopwatch);  // shapes and pages not seen before
  const Limits before = probe();
  std::vector<std::vector<std::vector<Lap>>> laps(passes.size());
  for (int i = 0; i < options_.repetitions; ++i) {
    for (size_t pass = 0; pass < passes.size(); ++pass) {
      stopwatch.start();
      passes[pass].run(stopwatch);
      laps[pass].push_back(stopwatch.laps());
    }
  }
  const Limits after = probe();
  const Limits limits{std::max(before.bandwidth, after.bandwidth), std::max(before.products, after.products),
                      std::max(before.vectors, after.vectors)};
  const double first = summarize(passes[0], laps[0])[0].best;
  for (size_t pass = 0; pass < passes.size(); ++pass) {
    const std::vector<Times> times = summarize(passes[pass], laps[pass]);
    for (size_t line = 0; line < times.size(); ++line) {
      print(passes[pass].lines[line], times[line], limits, passes[pass].compared ? first : 0.0);
    }
  }
  save();
}

void Bench::print(const Line& line, const Times& times, const Limits& limits, double first_best) {
  const double bytes_time = line.bytes / limits.bandwidth, operations_time = line.operations / limits.of(line.unit);
  const double fraction = std::max(bytes_time, operations_time) / times.best;
  char added[16] = "";
  if (first_best > 0.0) std::snprintf(added, sizeof added, "%+.1f%%", (times.best / first_best - 1.0) * 100.0);
  std::printf("%-10s %-24s %-30s %10.1f %10.1f %9.3f %9.2f %7.1f %8.1f %7s %5.2f %s%s\n", line.family.c_str(), line.shape.c_str(),
              line.variant.c_str(), times.best * 1e6, times.median * 1e6, line.bytes * 1e-6, line.operations * 1e-6,
              line.bytes * 1e-9 / times.best, line.operations * 1e-9 / times.best, added, fraction,
              bytes_time > operations_time ? "mem" : "ops", line.cached ? "*" : "");
  std::fflush(stdout);
  char text[512];
  std::snprintf(text, sizeof text,
                "%s\n    {\"family\": \"%s\", \"shape\": \"%s\", \"variant\": \"%s\", \"best_s\": %.4g, \"median_s\": %.4g, "
                "\"bytes\": %.0f, \"operations\": %.0f, \"bandwidth\": %.4g, \"peak\": %.4g, \"cached\": %s, "
                "\"fraction_of_limit\": %.3f}",
                json_.empty() ? "" : ",", line.family.c_str(), line.shape.c_str(), line.variant.c_str(), times.best, times.median,
                line.bytes, line.operations, limits.bandwidth, limits.of(line.unit), line.cached ? "true" : "false", fraction);
  json_ += text;
}

void Bench::save() const {
  if (options_.json.empty()) return;
  std::FILE* file = std::fopen(options_.json.c_str(), "w");
  if (file == nullptr) throw std::runtime_error("cannot write " + options_.json + ": " + std::strerror(errno));
  std::fprintf(file, "{\"capability\": \"%s\", \"threads\": %d, \"repetitions\": %d, \"lines\": [%s\n]}\n",
               options_.capability.c_str(), options_.threads, options_.repetitions, json_.c_str());
  std::fclose(file);
}

}  // namespace manylora::bench

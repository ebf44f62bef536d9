#include "bench.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "manylora/probe.h"

namespace manylora::bench {
namespace {

constexpr size_t kPieces = 20, kPieceBytes = size_t{32} << 20;  // of the probe's memory

// Everything but products runs on vectors, also where products have tiles.
std::string vector_capability(const std::string& capability) { return capability == "amx" ? "avx512bf16" : capability; }

Limits better(const Limits& a, const Limits& b) {
  Limits best{std::max(a.bandwidth, b.bandwidth), {}};
  for (size_t unit = 0; unit < kUnits; ++unit) best.peaks[unit] = std::max(a.peaks[unit], b.peaks[unit]);
  return best;
}

std::vector<Timing> summarize(const Pass& pass, const std::vector<std::vector<Split>>& repetitions) {
  std::vector<Timing> found(pass.lines.size());
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
      vectors_(options.threads, vector_capability(options.capability)) {
  for (size_t piece = 0; piece < kPieces; ++piece) {
    pieces_.emplace_back(kPieceBytes);
    std::memset(pieces_.back().data(), 1, kPieceBytes);
  }
  const Limits limits = probe();
  std::printf("%s, %d threads: reads %.1f GB/s; GFLOP/s of products %.0f, of int8 products %.0f, of the rest %.0f\n",
              options.capability.c_str(), options.threads, limits.bandwidth * 1e-9, limits.peaks[kProducts] * 1e-9,
              limits.peaks[kInt8Products] * 1e-9, limits.peaks[kVectors] * 1e-9);
  std::printf("limit: the longer of bytes / bandwidth (mem) and operations / peak (ops), as probed around each group of lines\n");
  std::printf("of limit: by the best time, in brackets by the median\n");
  std::printf("*: the bytes are in caches, as they are in a step, so the fraction may exceed 1\n\n");
  std::printf("%-11s %-22s %-30s %10s %10s %9s %9s %7s %8s %7s %10s %8s\n", "family", "shape", "variant", "best us", "median us",
              "MB", "MFLOP", "GB/s", "GFLOP/s", "added", "of limit", "(median)");
}

// As with the laps of a pass, each piece's best time counts.
Limits Bench::probe() {
  Limits best;
  std::vector<double> seconds(kPieces, std::numeric_limits<double>::infinity());
  for (int i = 0; i < 3; ++i) {
    for (size_t piece = 0; piece < kPieces; ++piece) {
      seconds[piece] = std::min(seconds[piece], static_cast<double>(kPieceBytes) / probe_read(runtime_, pieces_[piece]));
    }
    best = better(best, {0.0, {probe_bf16_products(runtime_), probe_int8_products(runtime_), probe_bf16_products(vectors_)}});
  }
  best.bandwidth = static_cast<double>(kPieces * kPieceBytes) / std::accumulate(seconds.begin(), seconds.end(), 0.0);
  return best;
}

void Bench::measure(const std::vector<Pass>& passes) {
  Stopwatch stopwatch;
  for (const Pass& pass : passes) stopwatch.start(), pass.run(stopwatch);  // shapes and pages not seen before
  const Limits before = probe();
  std::vector<std::vector<std::vector<Split>>> laps(passes.size());
  for (int i = 0; i < options_.repetitions; ++i) {
    for (size_t pass = 0; pass < passes.size(); ++pass) {
      stopwatch.start();
      passes[pass].run(stopwatch);
      laps[pass].push_back(stopwatch.laps());
    }
  }
  const Limits limits = better(before, probe());
  const double first = summarize(passes[0], laps[0])[0].best;
  for (size_t pass = 0; pass < passes.size(); ++pass) {
    const std::vector<Timing> times = summarize(passes[pass], laps[pass]);
    for (size_t line = 0; line < times.size(); ++line) {
      print(passes[pass].lines[line], times[line], limits, passes[pass].compared ? first : 0.0);
    }
  }
  save();
}

void Bench::print(const Line& line, const Timing& times, const Limits& limits, double first_best) {
  const double bytes_time = line.bytes / limits.bandwidth;
  double operations = 0.0, operations_time = 0.0;
  for (size_t unit = 0; unit < kUnits; ++unit) {
    operations += line.operations[unit];
    operations_time += line.operations[unit] / limits.peaks[unit];
  }
  const double limit = std::max(bytes_time, operations_time);
  char added[16] = "";
  if (first_best > 0.0) std::snprintf(added, sizeof added, "%+.1f%%", (times.best / first_best - 1.0) * 100.0);
  std::printf("%-11s %-22s %-30s %10.1f %10.1f %9.3f %9.2f %7.1f %8.1f %7s %5.2f %s%-1s   (%.2f)\n", line.family.c_str(),
              line.shape.c_str(), line.variant.c_str(), times.best * 1e6, times.median * 1e6, line.bytes * 1e-6,
              operations * 1e-6, line.bytes * 1e-9 / times.best, operations * 1e-9 / times.best, added, limit / times.best,
              bytes_time > operations_time ? "mem" : "ops", line.cached ? "*" : "", limit / times.median);
  std::fflush(stdout);
  char text[512];
  std::snprintf(text, sizeof text,
                "%s\n    {\"family\": \"%s\", \"shape\": \"%s\", \"variant\": \"%s\", \"best_s\": %.4g, \"median_s\": %.4g, "
                "\"bytes\": %.0f, \"operations\": %.0f, \"bytes_limit_s\": %.4g, \"operations_limit_s\": %.4g, "
                "\"cached\": %s, \"fraction_of_limit\": %.3f, \"median_fraction_of_limit\": %.3f}",
                json_.empty() ? "" : ",", line.family.c_str(), line.shape.c_str(), line.variant.c_str(), times.best, times.median,
                line.bytes, operations, bytes_time, operations_time, line.cached ? "true" : "false", limit / times.best,
                limit / times.median);
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

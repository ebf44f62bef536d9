// Every family of kernels beside what the machine allows: make bench-kernels, or --help.
//
// Times are of one pass over all products of a model (or those of one site), of attention in one layer, of one call elsewhere.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "bench.h"

namespace manylora::bench {
namespace {

void usage(std::FILE* to) {
  std::fprintf(
      to,
      "usage: bench_kernels [--quick] [--family NAME] [--capability NAME] [--threads N] [--repetitions N] [--json FILE]\n"
      "  --quick        fewer shapes and repetitions: under a minute instead of under five\n"
      "  --family       linear, attention, rows or sampling alone\n"
      "  --capability   scalar, avx2, avx512bf16 or amx; the machine's best if not said\n");
}

// Throws std::invalid_argument naming what it does not understand.
Options parse(int argc, char** argv) {
  Options options;
  int repetitions = 0;
  const auto number = [](int* to) {
    return [to](const std::string& text) {
      *to = std::atoi(text.c_str());
      if (*to < 1) throw std::invalid_argument("'" + text + "' is not a number of at least 1");
    };
  };
  const std::map<std::string, std::function<void(const std::string&)>> named{
      {"--family", [&](const std::string& text) { options.family = text; }},
      {"--capability", [&](const std::string& text) { options.capability = text; }},
      {"--json", [&](const std::string& text) { options.json = text; }},
      {"--threads", number(&options.threads)},
      {"--repetitions", number(&repetitions)}};
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--quick") {
      options.quick = true;
      continue;
    }
    const auto found = named.find(argv[i]);
    if (found == named.end()) throw std::invalid_argument("unknown option '" + std::string(argv[i]) + "'");
    if (i + 1 == argc) throw std::invalid_argument(found->first + " needs a value");
    found->second(argv[++i]);
  }
  if (options.quick) options.repetitions = 3;
  if (repetitions > 0) options.repetitions = repetitions;
  return options;
}

}  // namespace
}  // namespace manylora::bench

int main(int argc, char** argv) try {
  using namespace manylora::bench;
  if (argc == 2 && std::string(argv[1]) == "--help") return usage(stdout), 0;
  const std::pair<std::string, void (*)(Bench&)> families[] = {
      {"linear", bench_linear}, {"attention", bench_attention}, {"rows", bench_rows}, {"sampling", bench_sampling}};
  const Options options = parse(argc, argv);
  const auto wanted = [&](const auto& family) { return options.family.empty() || options.family == family.first; };
  if (std::none_of(std::begin(families), std::end(families), wanted)) {
    throw std::invalid_argument("--family is linear, attention, rows or sampling, not '" + options.family + "'");
  }
  Bench bench(options);
  for (const auto& family : families) {
    if (wanted(family)) family.second(bench);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench_kernels: %s\n", error.what());
  return 2;
}

#include "manylora/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "manylora/runtime.h"

namespace manylora {
namespace {

constexpr int64_t kReadBytes = int64_t{1} << 20;  // of one task
constexpr double kProductSeconds = 0.0005;        // of one task
constexpr int64_t kProductTasks = 20;             // of each thread

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double products(Runtime& runtime, int64_t (*kernel)(int64_t rounds)) {
  int64_t rounds = 256;  // of a task: as many as take its time on one thread
  for (double seconds = 0; seconds < kProductSeconds; rounds *= 2) {
    const auto start = std::chrono::steady_clock::now();
    kernel(rounds);
    seconds = seconds_since(start);
  }
  std::atomic<int64_t> operations{0};
  const auto start = std::chrono::steady_clock::now();
  runtime.workers().run(kProductTasks * runtime.workers().threads(), [&](int64_t) { operations += kernel(rounds); });
  return static_cast<double>(operations) / seconds_since(start);
}

}  // namespace

double probe_read(Runtime& runtime, const Memory& memory) {
  const int64_t bytes = static_cast<int64_t>(memory.bytes()) / 512 * 512;
  const auto read = runtime.kernels().probe.read;
  std::atomic<uint64_t> sum{0};
  const auto start = std::chrono::steady_clock::now();
  runtime.workers().run((bytes + kReadBytes - 1) / kReadBytes, [&](int64_t task) {
    const int64_t first = task * kReadBytes;
    sum += read(memory.data() + first, std::min(kReadBytes, bytes - first));
  });
  return static_cast<double>(bytes) / seconds_since(start);
}

double probe_bf16_products(Runtime& runtime) { return products(runtime, runtime.kernels().probe.bf16_products); }

double probe_int8_products(Runtime& runtime) { return products(runtime, runtime.kernels().probe.int8_products); }

}  // namespace manylora

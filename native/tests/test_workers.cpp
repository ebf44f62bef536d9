// The thread pool: every task exactly once, every effect visible to the caller, whatever the timing.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "check.h"
#include "manylora/workers.h"

using namespace manylora;

namespace {

// Millions of tiny jobs back to back, of sizes around the thread count: a claim from an older job would run a task twice or lose
// one.
void hammer(int threads, int64_t jobs) {
  Workers workers(threads);
  CHECK(workers.threads() == threads);
  std::vector<int64_t> runs(8);  // plain memory: the pool itself must order it
  std::atomic<int64_t> total{0};
  int64_t expected = 0;
  for (int64_t job = 0; job < jobs; ++job) {
    const int64_t count = job % 8;
    workers.run(count, [&](int64_t index) {
      runs[static_cast<size_t>(index)] += job;
      total.fetch_add(index + 1, std::memory_order_relaxed);
    });
    expected += count * (count + 1) / 2;
    if (count > 0) CHECK(runs[static_cast<size_t>(count - 1)] >= job);
  }
  CHECK(total.load() == expected);
  for (int64_t index = 0; index < 8; ++index) {
    int64_t sum = 0;
    for (int64_t job = 0; job < jobs; ++job) sum += index < job % 8 ? job : 0;
    CHECK(runs[static_cast<size_t>(index)] == sum);
  }
}

// Helpers that fell asleep between jobs still do, and finish, the next one.
void wake(int threads) {
  Workers workers(threads);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::microseconds(300));
    std::atomic<int> ran{0};
    workers.run(64, [&](int64_t) { ran.fetch_add(1); });
    CHECK(ran.load() == 64);
  }
}

// Tasks that ask for it learn which thread they are on: two at the same time never share a number.
void numbers(int threads) {
  Workers workers(threads);
  std::vector<std::atomic<int>> busy(static_cast<size_t>(threads));
  workers.run(20000, [&](int64_t, int worker) {
    CHECK(worker >= 0 && worker < threads);
    CHECK(busy[static_cast<size_t>(worker)].fetch_add(1) == 0);
    busy[static_cast<size_t>(worker)].fetch_sub(1);
  });
}

// A pool that never worked, or whose helpers sleep, ends at once.
void end(int threads) {
  {
    Workers unused(threads);
  }
  Workers asleep(threads);
  asleep.run(threads, [](int64_t) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t jobs = argc > 1 ? std::atoll(argv[1]) : 2000000;
  for (int threads = 1; threads <= 4; ++threads) {
    // More threads than processors take turns by the scheduler's slices: fewer jobs say as much.
    const bool crowded = threads > static_cast<int>(std::thread::hardware_concurrency());
    hammer(threads, crowded ? jobs / 100 : jobs);
    wake(threads);
    numbers(threads);
    for (int i = 0; i < 20; ++i) end(threads);
  }
  return 0;
}

#include "manylora/workers.h"

#include <chrono>

namespace manylora {
namespace {

constexpr uint64_t kIndexMask = 0xffffffffu;
constexpr auto kSpin = std::chrono::microseconds(60);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Workers::Workers(int threads) {
  for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { help(i); });
}

Workers::~Workers() {
  stop_.store(true);
  ticket_.fetch_add(uint64_t{1} << 32);
  ticket_.notify_all();
  for (auto& helper : helpers_) helper.join();
}

// Runs the tasks that are left of the ticket's job.
void Workers::claim_and_run(uint64_t ticket, int worker) {
  const uint64_t job = ticket >> 32;
  while ((ticket >> 32) == job) {
    const int64_t index = static_cast<int64_t>(ticket & kIndexMask);
    // Fields of a newer job are harmless: they were stored after that job closed the ticket, so the swap below fails.
    const int64_t count = count_.load(std::memory_order_acquire);
    const void* context = context_.load(std::memory_order_acquire);
    const Call call = call_.load(std::memory_order_acquire);
    if (index >= count) break;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    call(context, index, worker);
    finished_.fetch_add(1, std::memory_order_release);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void Workers::run_job(int64_t count, const void* context, Call call) {
  const uint64_t job = ((ticket_.load(std::memory_order_relaxed) >> 32) + 1) << 32;
  ticket_.store(job | kIndexMask, std::memory_order_relaxed);  // closed while the fields change: the stores below release it
  count_.store(count, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  call_.store(call, std::memory_order_release);
  finished_.store(0, std::memory_order_relaxed);
  ticket_.store(job, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) ticket_.notify_all();
  claim_and_run(job, 0);
  for (int spins = 0; finished_.load(std::memory_order_acquire) != count; ++spins) {
    if (spins < 4096) {
      pause();
    } else {
      std::this_thread::yield();  // a helper lost its core: give ours away instead of burning it
    }
  }
}

void Workers::help(int worker) {
  uint64_t seen = 0;
  auto idle_since = std::chrono::steady_clock::now();
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if ((ticket >> 32) != seen && (ticket & kIndexMask) != kIndexMask) {
      seen = ticket >> 32;
      claim_and_run(ticket, worker);
      idle_since = std::chrono::steady_clock::now();
      continue;
    }
    if (std::chrono::steady_clock::now() - idle_since < kSpin) {
      for (int i = 0; i < 16; ++i) pause();
      continue;
    }
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    const uint64_t before = ticket_.load(std::memory_order_seq_cst);
    if ((before >> 32) == seen && !stop_.load()) ticket_.wait(before, std::memory_order_acquire);
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    idle_since = std::chrono::steady_clock::now();
  }
}

}  // namespace manylora

// The thread pool every operation runs on.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace manylora {

// A fixed set of threads that claim tasks one by one. The caller is one of them. Which thread runs a task never changes a
// result: tasks own disjoint outputs. Between jobs the threads spin for some tens of microseconds, then sleep in the kernel.
// Not reentrant: one job at a time, always from the thread that owns the pool.
class Workers {
 public:
  explicit Workers(int threads);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls task(index), or task(index, worker) with the worker in [0, threads()), once for every index in [0, count) and returns
  // when all calls have returned. At most 2^32 - 2 tasks. A task must not throw.
  template <class Task>
  void run(int64_t count, const Task& task) {
    if (count <= 0) return;
    if (count == 1 || helpers_.empty()) {
      for (int64_t index = 0; index < count; ++index) call(&task, index, 0, std::is_invocable<const Task&, int64_t, int>());
      return;
    }
    run_job(count, &task, [](const void* context, int64_t index, int worker) {
      call(static_cast<const Task*>(context), index, worker, std::is_invocable<const Task&, int64_t, int>());
    });
  }

 private:
  using Call = void (*)(const void* context, int64_t index, int worker);

  template <class Task>
  static void call(const Task* task, int64_t index, int worker, std::true_type) {
    (*task)(index, worker);
  }
  template <class Task>
  static void call(const Task* task, int64_t index, int, std::false_type) {
    (*task)(index);
  }

  void run_job(int64_t count, const void* context, Call call);
  void claim_and_run(uint64_t ticket, int worker);
  void help(int worker);

  // The ticket is (job number << 32 | next index). A claim is a compare-and-swap on it, so a thread that wakes late, holding
  // fields of an older job, can never take an index of a newer one, and nobody has to wait for sleepers.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> finished_{0};
  alignas(64) std::atomic<int64_t> count_{0};
  std::atomic<const void*> context_{nullptr};
  std::atomic<Call> call_{nullptr};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> helpers_;
};

}  // namespace manylora

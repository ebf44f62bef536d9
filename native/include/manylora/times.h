// Where the time of the operations goes, when somebody asks. Until then an operation pays a branch for it.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace manylora {

// What an operation's time is charged to: products with base weights (with the quantisation of rows and the activation that are
// part of them), low-rank terms (shrink, expand and the plan of both), attention, and what works element by element (norms,
// rotary embedding, lookups).
enum class Part { base, lora, attention, elementwise };
constexpr size_t kTimedParts = 4;

// Nanoseconds by part, of the thread that calls the operations: the parts of a step add up to its time whatever the number of
// threads.
class PartTimes {
 public:
  // What one worker counts within a phase that two parts share.
  struct alignas(64) Shared {
    uint64_t whole = 0, low_rank = 0;
  };

  bool on() const { return !shared_.empty(); }
  void turn_on(int threads) { shared_.resize(static_cast<size_t>(threads)); }

  // Null when off.
  Shared* of_worker(int worker) { return on() ? &shared_[static_cast<size_t>(worker)] : nullptr; }

  void charge(Part part, int64_t nanoseconds) { spent_[static_cast<size_t>(part)] += nanoseconds; }

  // Charges a phase to `lora` by the share that low-rank terms had of the workers' time, the rest to `base`. Forgets that time.
  void charge_shared(int64_t nanoseconds) {
    Shared sum;
    for (Shared& worker : shared_) {
      sum.whole += worker.whole;
      sum.low_rank += worker.low_rank;
      worker = {};
    }
    const double share = sum.whole == 0 ? 0.0 : static_cast<double>(sum.low_rank) / static_cast<double>(sum.whole);
    const auto lora = static_cast<int64_t>(share * static_cast<double>(nanoseconds));
    charge(Part::lora, lora);
    charge(Part::base, nanoseconds - lora);
  }

  // By part, since the last call.
  std::array<int64_t, kTimedParts> take() {
    const std::array<int64_t, kTimedParts> spent = spent_;
    spent_ = {};
    return spent;
  }

 private:
  std::array<int64_t, kTimedParts> spent_{};
  std::vector<Shared> shared_;  // one for each worker once it is on
};

// Measures from its construction, or from its last charge, to the next.
class Lap {
 public:
  explicit Lap(PartTimes& times) : times_(times) {
    if (times_.on()) since_ = std::chrono::steady_clock::now();
  }
  void charge(Part part) {
    if (times_.on()) times_.charge(part, elapsed());
  }
  void charge_shared() {
    if (times_.on()) times_.charge_shared(elapsed());
  }

 private:
  int64_t elapsed() {
    const auto now = std::chrono::steady_clock::now();
    const auto passed = std::chrono::duration_cast<std::chrono::nanoseconds>(now - since_);
    since_ = now;
    return passed.count();
  }

  PartTimes& times_;
  std::chrono::steady_clock::time_point since_;
};

// Charges all of a block's time to one part.
class Timed {
 public:
  Timed(PartTimes& times, Part part) : lap_(times), part_(part) {}
  ~Timed() { lap_.charge(part_); }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  Lap lap_;
  Part part_;
};

}  // namespace manylora

// What every operation runs on: threads, the kernels chosen at start, and scratch memory. The first argument of every operation.
#pragma once

#include <cstddef>
#include <string>

#include "manylora/dispatch.h"
#include "manylora/memory.h"
#include "manylora/times.h"
#include "manylora/workers.h"

namespace manylora {

// Not thread safe: one operation at a time, from the thread that made it.
class Runtime {
 public:
  // Throws std::invalid_argument for a capability that this CPU or build does not have.
  Runtime(int threads, const std::string& capability)
      : capability_(parse_capability(capability)), kernels_(kernels_for(capability_)), workers_(threads), scratch_(4096) {}

  Capability capability() const { return capability_; }
  const Kernels& kernels() const { return kernels_; }
  Workers& workers() { return workers_; }
  PartTimes& times() { return times_; }

  // Of packed weights.
  Pool& pool() { return pool_; }

  // At least `bytes` of 64-byte aligned scratch, contents undefined, valid until the next call. It only ever grows, so a step of
  // shapes seen before allocates nothing.
  std::byte* scratch(size_t bytes) {
    if (bytes > scratch_.bytes()) scratch_ = Memory(bytes + bytes / 4);
    return scratch_.data();
  }

 private:
  Capability capability_;
  Kernels kernels_;
  Workers workers_;
  Memory scratch_;
  Pool pool_;
  PartTimes times_;
};

}  // namespace manylora

// The cheapest clock there is. By itself, because files of one instruction set include it.
#pragma once

#include <cstdint>
#ifndef MANYLORA_X86
#include <chrono>
#endif

namespace manylora {

// A count that rises with time, read once what came before in the program is done. Only quotients of differences mean anything.
static inline uint64_t ticks() {
#ifdef MANYLORA_X86
  unsigned processor;
  return __builtin_ia32_rdtscp(&processor);
#else
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}

}  // namespace manylora

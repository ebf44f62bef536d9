// How fast this machine does the two things that bound inference: reading memory, and multiplying. What a roofline stands on.
#pragma once

#include <cstddef>
#include <cstdint>

#include "manylora/memory.h"

namespace manylora {

class Runtime;

// What one thread does without pause. Products stay in registers, at the rate of the capability's linear layers:
//   scalar, avx2  fp32 multiply and add (fused in avx2), for bf16 and, widened, in int8 (avx2: pairs of 16 bits)
//   avx512bf16    vdpbf16ps, vpdpbusd
//   amx           tdpbf16ps, an int8 tile product
struct ProbeKernels {
  // Reads `bytes`, a multiple of 512, from a 64-byte aligned address. The result only keeps the reads from being left out.
  uint64_t (*read)(const std::byte* at, int64_t bytes);
  // Both return the operations done, two for each multiplication and its addition.
  int64_t (*bf16_products)(int64_t rounds);
  int64_t (*int8_products)(int64_t rounds);
};

extern const ProbeKernels probe_scalar, probe_avx2, probe_avx512bf16, probe_amx;

// Bytes per second of one sequential read of the whole memory by all threads. Memory that was never written is not real: write it
// first, and take more of it than caches hold.
double probe_read(Runtime& runtime, const Memory& memory);

// Operations per second of all threads together, over some ten milliseconds.
double probe_bf16_products(Runtime& runtime);
double probe_int8_products(Runtime& runtime);

}  // namespace manylora

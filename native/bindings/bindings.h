// One function per binding file. What several of them share.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

namespace manylora {

void bind_memory(nanobind::module_& m);     // Runtime, Matrix, Arena
void bind_linear(nanobind::module_& m);     // Linear, Adapter, Segments, packing, linear
void bind_attention(nanobind::module_& m);  // Batch, KvCache, rotary, attention
void bind_rows(nanobind::module_& m);       // embed, rms_norm, silu_multiply, gather
void bind_sampling(nanobind::module_& m);   // Sampler, logprobs, sample
void bind_probe(nanobind::module_& m);      // bandwidth and peaks of the machine

// Raises ValueError with `message` unless `condition`.
inline void require(bool condition, const std::string& message) {
  if (!condition) throw nanobind::value_error(message.c_str());
}

}  // namespace manylora

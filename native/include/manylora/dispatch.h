// Which kernel runs: (family, capability) -> functions. Filled by src/dispatch.cpp, the only table.
#pragma once

#include <string>
#include <vector>

#include "manylora/activation.h"
#include "manylora/attention.h"
#include "manylora/embedding.h"
#include "manylora/linear.h"
#include "manylora/lora.h"
#include "manylora/norm.h"
#include "manylora/probe.h"
#include "manylora/quantize.h"
#include "manylora/rotary.h"
#include "manylora/sampling.h"

namespace manylora {

enum class Capability { scalar, avx2, avx512bf16, amx };

// The kernels of one capability. Each family declares its own sub-struct, and its instances, in its own header.
struct Kernels {
  QuantizeKernels quantize;
  LinearKernels linear;
  LoraKernels lora;
  AttentionKernels attention;
  RotaryKernels rotary;
  NormKernels norm;
  ActivationKernels activation;
  EmbeddingKernels embedding;
  SamplingKernels sampling;
  ProbeKernels probe;
};

// The table of a capability that `available_capabilities` lists.
Kernels kernels_for(Capability capability);

// The capabilities this build and this CPU both have, slowest first. `scalar` is always one of them.
std::vector<Capability> available_capabilities();

// Throws std::invalid_argument naming the capability and what there is when it is unknown or missing.
Capability parse_capability(const std::string& name);

const char* name_of(Capability capability);

}  // namespace manylora

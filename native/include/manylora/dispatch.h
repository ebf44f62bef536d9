// Which kernel runs: (family, capability) -> function. Filled by src/dispatch.cpp, the only table.
#pragma once

#include <string>
#include <vector>

namespace manylora {

enum class Capability { scalar, avx2, avx512bf16 };

// The capabilities this build and this CPU both have, slowest first. `scalar` is always one of them.
std::vector<Capability> available_capabilities();

// Throws std::invalid_argument naming the capability and what there is when it is unknown or missing.
Capability parse_capability(const std::string& name);

const char* name_of(Capability capability);

}  // namespace manylora

// The Python face of the kernels: validate and raise, nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "manylora/dispatch.h"

namespace nb = nanobind;
using namespace manylora;

NB_MODULE(_native, m) {
  nb::set_leak_warnings(false);  // caches that live until the interpreter ends are no leaks of ours
  m.doc() = "Native kernels of manylora. Use manylora.kernels, which picks the capability.";
  m.def("capabilities", [] {
    std::vector<std::string> names;
    for (Capability capability : available_capabilities()) names.emplace_back(name_of(capability));
    return names;
  }, "Instruction sets that this build and this CPU both have, slowest first.");
  bind_memory(m);
  bind_linear(m);
  bind_attention(m);
  bind_rows(m);
  bind_sampling(m);
  bind_probe(m);
}

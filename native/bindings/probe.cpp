#include "manylora/probe.h"

#include "bindings.h"
#include "manylora/runtime.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace manylora {

void bind_probe(nb::module_& m) {
  using Unlocked = nb::call_guard<nb::gil_scoped_release>;  // so that progress can be shown meanwhile
  m.def("probe_read", &probe_read, "runtime"_a, "arena"_a, Unlocked(),
        "Bytes per second of one sequential read of the arena, which must have been written, by all threads.");
  m.def("probe_bf16_products", &probe_bf16_products, "runtime"_a, Unlocked(),
        "Operations per second of bfloat16 products in registers, all threads (float32 where there are none).");
  m.def("probe_int8_products", &probe_int8_products, "runtime"_a, Unlocked(),
        "Operations per second of int8 products in registers, all threads (wider integers where there are none).");
}

}  // namespace manylora

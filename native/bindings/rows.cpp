#include "bindings.h"
#include "manylora/activation.h"
#include "manylora/embedding.h"
#include "manylora/norm.h"
#include "manylora/runtime.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace manylora {

void bind_rows(nb::module_& m) {
  m.def("embed", &embed, "runtime"_a, "batch"_a, "table"_a, "x"_a,
        "x[row] = table[token_ids[row]]; table bfloat16 [vocabulary, columns], x float32 [rows, columns].");
  m.def("rms_norm", &rms_norm, "runtime"_a, "rows"_a, "x"_a, "weight"_a, "eps"_a, "y"_a,
        "y = x / sqrt(mean(x^2) + eps) * weight; x float32 [rows, columns], weight float32 [1, columns], y bfloat16.");
  m.def("silu_multiply", &silu_multiply, "runtime"_a, "rows"_a, "gate_up"_a, "y"_a,
        "y = silu(gate) * up; gate_up float32 [rows, 2 * columns], the gate first, y bfloat16 [rows, columns].");
  m.def("gather", &gather, "runtime"_a, "batch"_a, "count"_a, "x"_a, "y"_a, "y[i] = x[gather_rows[i]] for i < count, float32.");
}

}  // namespace manylora

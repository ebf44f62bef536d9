#include "bindings.h"

namespace manylora {

void bind_linear(nanobind::module_& m) {}

}  // namespace manylora

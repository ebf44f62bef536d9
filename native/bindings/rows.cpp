#include "bindings.h"

namespace manylora {

void bind_rows(nanobind::module_& m) {}

}  // namespace manylora

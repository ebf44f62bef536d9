#include "bindings.h"

namespace manylora {

void bind_sampling(nanobind::module_& m) {}

}  // namespace manylora

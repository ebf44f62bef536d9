#include "bindings.h"

namespace manylora {

void bind_attention(nanobind::module_& m) {}

}  // namespace manylora

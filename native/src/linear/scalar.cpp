// The specification of the product: one output after the other, every sum in ascending order.
#include "int8.h"
#include "manylora/linear.h"

namespace manylora {
namespace {

// The expansion that covers `row`, or null: a base row.
const Expansion* covering(const PanelJob& job, int64_t row) {
  for (int64_t i = 0; i < job.expansion_count; ++i) {
    const Expansion& expansion = job.expansions[i];
    if (row >= expansion.start && row < expansion.stop) return &expansion;
  }
  return nullptr;
}

float base_product(const PanelJob& job, int64_t row, int64_t column) {
  const bf16* x = job.x + row * job.x_stride;
  float sum = 0.0f;
  for (int64_t k = 0; k < job.depth; ++k) sum += to_float(x[k]) * to_float(job.panel[(k / 2 * job.width + column) * 2 + k % 2]);
  return sum;
}

float int8_product(const PanelJob& job, int64_t row, int64_t column) {
  const Int8Panel panel(job);
  const uint8_t* x = job.int8.q + row * job.int8.stride;
  int32_t sum = panel.starts[column];
  for (int64_t k = 0; k < panel.depth; ++k) sum += x[k] * panel.q[(k / 4 * job.width + column) * 4 + k % 4];
  return static_cast<float>(sum) * job.int8.scales[row] * panel.scales[column];
}

float expand(const PanelJob& job, const Expansion& expansion, int64_t row, int64_t column, float sum) {
  const bf16* s = expansion.s + (row - expansion.start) * expansion.s_stride;
  const bf16* b = expansion.b + job.index * even(expansion.rank) * job.width;
  for (int64_t j = 0; j < expansion.rank; ++j) sum += to_float(s[j]) * to_float(b[(j / 2 * job.width + column) * 2 + j % 2]);
  return sum;
}

template <auto base>
void panel(const PanelJob& job) {
  for (int64_t row = job.start; row < job.stop; ++row) {
    const Expansion* expansion = covering(job, row);
    for (int64_t column = 0; column < job.columns; ++column) {
      const int64_t of_part = job.index * job.width + column;
      float sum = base(job, row, column);
      if (expansion != nullptr) sum = expand(job, *expansion, row, column, sum);
      if (expansion != nullptr && expansion->column_scale != nullptr) sum *= expansion->column_scale[of_part];
      if (expansion != nullptr && expansion->bias != nullptr) {
        sum += expansion->bias[of_part];
      } else if (job.bias != nullptr) {
        sum += job.bias[column];
      }
      float& y = job.y[row * job.y_stride + column];
      y = job.accumulate ? y + sum : sum;
    }
  }
}

}  // namespace

const LinearKernels linear_scalar{panel<base_product>, panel<int8_product>};

}  // namespace manylora

// Packing of base weights.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "manylora/linear.h"
#include "manylora/runtime.h"

namespace manylora {
namespace {

constexpr int64_t kMaxInt8Depth = 1 << 17;  // 127 * 127 times it is below 2^31

std::vector<int64_t> columns_of(const std::vector<WeightPart>& parts, int64_t depth) {
  if (parts.empty() || parts.size() > Adapter::kParts) {
    throw std::invalid_argument("a linear layer has 1 to " + std::to_string(Adapter::kParts) + " parts, not " +
                                std::to_string(parts.size()));
  }
  std::vector<int64_t> columns;
  for (const WeightPart& part : parts) columns.push_back(part.columns);
  if (depth < 1 || *std::min_element(columns.begin(), columns.end()) < 1) {
    throw std::invalid_argument("every part of a linear layer needs at least one column and a depth of at least one");
  }
  return columns;
}

int64_t panels_of(int64_t columns, int64_t width) { return (columns + width - 1) / width; }

int64_t count_panels(const std::vector<int64_t>& part_columns, int64_t width) {
  int64_t panels = 0;
  for (int64_t columns : part_columns) panels += panels_of(columns, width);
  return panels;
}

// Columns [first, first + columns) of a row-major weight as one panel. `out` is zeroed.
void pack_panel(const bf16* weight, int64_t depth, int64_t columns, int64_t width, bf16* out) {
  for (int64_t c = 0; c < columns; ++c) {
    const bf16* row = weight + c * depth;
    for (int64_t k = 0; k < depth; ++k) out[(k / 2 * width + c) * 2 + k % 2] = row[k];
  }
}

// One column of an int8 panel: q [padded], offset by 128.
void pack_int8_column(const uint8_t* q, int64_t padded, float scale, int64_t width, int64_t c, std::byte* panel) {
  auto* starts = reinterpret_cast<int32_t*>(panel);
  auto* scales = reinterpret_cast<float*>(starts + width);
  auto* out = reinterpret_cast<int8_t*>(scales + width);
  int32_t sum = 0;
  for (int64_t k = 0; k < padded; ++k) {
    const int value = q[k] - kInt8Zero;
    out[(k / 4 * width + c) * 4 + k % 4] = static_cast<int8_t>(value);
    sum += value;
  }
  starts[c] = -kInt8Zero * sum;
  scales[c] = scale / static_cast<float>(kRotation);
}

}  // namespace

int panel_width(const std::vector<int64_t>& part_columns) {
  for (const int width : {48, 64}) {
    if (std::all_of(part_columns.begin(), part_columns.end(), [width](int64_t columns) { return columns % width == 0; }))
      return width;
  }
  return 32;
}

Linear::Linear(Runtime& runtime, const std::vector<WeightPart>& parts, int64_t depth, Quantization quantization)
    : part_columns_(columns_of(parts, depth)),
      depth_(depth),
      columns_(0),
      width_(panel_width(part_columns_)),
      panels_(count_panels(part_columns_, width_)),
      quantization_(quantization),
      memory_(runtime.pool().take(static_cast<size_t>(panels_ * panel_bytes()))) {
  if (quantization == Quantization::int8 && depth > kMaxInt8Depth) {
    throw std::invalid_argument("an int8 weight has a depth of at most " + std::to_string(kMaxInt8Depth) + ", not " +
                                std::to_string(depth));
  }
  for (const WeightPart& part : parts) {
    has_bias_.push_back(part.bias != nullptr);
    if (part.bias != nullptr) {
      biases_.insert(biases_.end(), part.bias, part.bias + part.columns);
    } else {
      biases_.resize(biases_.size() + static_cast<size_t>(part.columns));
    }
    columns_ += part.columns;
  }
  quantization == Quantization::int8 ? pack_int8(runtime, parts) : pack_bf16(runtime, parts);
}

void Linear::pack_bf16(Runtime& runtime, const std::vector<WeightPart>& parts) {
  runtime.workers().run(panels_, [&](int64_t index) {
    const Place at = place(index);
    const bf16* weight = parts[static_cast<size_t>(at.part)].weight + at.index * width_ * depth_;
    pack_panel(weight, depth_, at.columns, width_, reinterpret_cast<bf16*>(memory_.data + index * panel_bytes()));
  });
}

// A column is rounded as a row of x is.
void Linear::pack_int8(Runtime& runtime, const std::vector<WeightPart>& parts) {
  const int64_t padded = padded_depth(depth_), each = padded * 5;  // of one thread: rotated values, then q
  std::byte* scratch = runtime.scratch(static_cast<size_t>(runtime.workers().threads() * each));
  const auto quantize = runtime.kernels().quantize.row;
  runtime.workers().run(panels_, [&](int64_t index, int worker) {
    const Place at = place(index);
    const bf16* weight = parts[static_cast<size_t>(at.part)].weight + at.index * width_ * depth_;
    auto* rotated = reinterpret_cast<float*>(scratch + worker * each);
    auto* q = reinterpret_cast<uint8_t*>(rotated + padded);
    float scale = 0.0f;
    for (int64_t c = 0; c < at.columns; ++c) {
      quantize(weight + c * depth_, depth_, rotated, q, &scale);
      pack_int8_column(q, padded, scale, width_, c, memory_.data + index * panel_bytes());
    }
  });
}

Linear::Place Linear::place(int64_t panel) const {
  int64_t column = 0;
  for (size_t part = 0; part < part_columns_.size(); ++part) {
    const int64_t panels = panels_of(part_columns_[part], width_);
    if (panel < panels) {
      const int64_t first = panel * width_;
      return {static_cast<int64_t>(part), panel, column + first, std::min(width_, part_columns_[part] - first)};
    }
    panel -= panels;
    column += part_columns_[part];
  }
  throw std::invalid_argument("no such panel");
}

}  // namespace manylora

// y = (accumulate ? y : 0) + [column scale *] (x W^T + lora) + bias, for a packed bf16 weight.
//
// x is bf16 [rows, depth], W bf16 [columns, depth], y float32 [rows, columns]. Every output is one fp32 accumulator chain over
// ascending depth, then ascending rank, whatever the tile, the row or the thread. Its links are
//   scalar, avx2  single products. Of two bf16 values they are exact in fp32 unless they underflow (below 2^-133), so the bits of
//                 both are equal, but that after an underflow the sign of a zero may differ
//   avx512bf16    pairs, by vdpbf16ps
//   amx           16 pairs, by tdpbf16ps, or the fewer that end the rank; what is left of the depth by vdpbf16ps
// Odd depths and ranks are padded by a product of zeros. Then, in fp32: times the adapter's column scale, plus the bias (an
// adapter's bias takes the place of the layer's), plus the old y. No rounding to bf16.
//
// With an int8 weight the base product is an exact int32 sum over the depth of rows and columns rounded as quantize.h says, then
// float(sum) * row scale * column scale in that order: the same bits on every instruction set. From there on all is as above;
// shrink reads the bf16 x.
//
// Packing: the weight's parts (q|k|v, gate|up) are each padded with zeros to whole panels of `width` columns; a panel is
// [depth pairs][width][2] bf16, contiguous and 64-byte aligned. In y the parts are adjacent and unpadded. A panel of an int8
// weight is first [width] int32, where the sums start: -128 times the sum of the column, because rows are stored with an offset
// of 128; then [width] float32 scales; then [padded depth / 4][width][4] int8.
#pragma once

#include <cstdint>
#include <vector>

#include "manylora/bfloat16.h"
#include "manylora/lora.h"
#include "manylora/memory.h"
#include "manylora/quantize.h"

namespace manylora {

class Runtime;

// The panel width of a weight with these parts: a constant of the shape.
int panel_width(const std::vector<int64_t>& part_columns);

// The low-rank term of rows [start, stop) for one part.
struct Expansion {
  int64_t start, stop;
  const bf16* s;     // [stop - start, rank] at stride s_stride, 64-byte aligned; zeros follow up to a multiple of 32
  int64_t s_stride;  // elements, a multiple of 32
  int64_t rank;
  const bf16* b;              // the packed pieces of all panels of the part
  const float* column_scale;  // [columns of the part] or null
  const float* bias;          // [columns of the part] or null
};

// Some memory.
struct Region {
  const std::byte* at;
  int64_t lines;  // of 64 bytes
};

// Rows [start, stop) of one panel.
struct PanelJob {
  const bf16* x;     // row 0 of [rows, depth]
  int64_t x_stride;  // elements
  int64_t start, stop;
  int64_t depth;
  const bf16* panel;  // the packed bytes, whatever the weight's kind
  Int8Rows int8;      // of x, for an int8 weight
  int64_t width;      // 32, 48 or 64
  int64_t columns;    // of the panel, at most width
  int64_t index;      // of the panel in its part
  const float* bias;  // of the panel's columns, or null
  float* y;           // row 0, first column of the panel
  int64_t y_stride;   // elements
  bool accumulate;
  bool cold;  // few rows, and the panel has not been read yet: reading it is what takes the time
  const Expansion* expansions;  // of the part, ascending and disjoint
  int64_t expansion_count;
  Region next;  // what this thread will probably read next: worth fetching meanwhile
  uint64_t* expand_ticks;   // of the expansions, to be added to; null: nobody asks
};

struct LinearKernels {
  void (*panel)(const PanelJob& job);
  void (*int8_panel)(const PanelJob& job);
};

extern const LinearKernels linear_scalar, linear_avx2, linear_avx512bf16, linear_amx;

// One part of a weight before packing: bf16 [columns, depth] row-major, and its bias [columns] or null.
struct WeightPart {
  const bf16* weight;
  int64_t columns;
  const float* bias;
};

// How a weight is kept: bf16 as it came, or rotated and rounded to int8, one scale per column.
enum class Quantization { none, int8 };

// A packed base weight.
class Linear {
 public:
  // Packs. Throws std::invalid_argument for no parts, too many parts, empty shapes, or a depth whose int32 sums could overflow.
  Linear(Runtime& runtime, const std::vector<WeightPart>& parts, int64_t depth, Quantization quantization = Quantization::none);

  int64_t depth() const { return depth_; }
  int64_t columns() const { return columns_; }
  int64_t width() const { return width_; }
  int64_t panels() const { return panels_; }
  size_t bytes() const { return memory_.bytes; }
  Quantization quantization() const { return quantization_; }
  const std::vector<int64_t>& part_columns() const { return part_columns_; }

  // Where panel `panel` lies.
  struct Place {
    int64_t part, index;      // panel `index` of part `part`
    int64_t column, columns;  // first column in y, and how many
  };
  Place place(int64_t panel) const;
  // The panel after `panel`, or nothing.
  Region next(int64_t panel) const {
    if (panel + 1 == panels_) return {nullptr, 0};
    return {memory_.data + (panel + 1) * panel_bytes(), panel_bytes() / 64};
  }
  const bf16* panel(int64_t index) const { return reinterpret_cast<const bf16*>(memory_.data + index * panel_bytes()); }
  int64_t panel_bytes() const {
    return quantization_ == Quantization::int8 ? (padded_depth(depth_) + 8) * width_ : (depth_ + 1) / 2 * 4 * width_;
  }
  const float* bias(const Place& place) const {
    return has_bias_[static_cast<size_t>(place.part)] ? biases_.data() + place.column : nullptr;
  }

 private:
  void pack_bf16(Runtime& runtime, const std::vector<WeightPart>& parts);
  void pack_int8(Runtime& runtime, const std::vector<WeightPart>& parts);

  std::vector<int64_t> part_columns_;
  std::vector<bool> has_bias_;
  std::vector<float> biases_;  // [columns], zero where a part has none
  int64_t depth_, columns_, width_, panels_;
  Quantization quantization_;
  Pool::Piece memory_;
};

// The product of the first `rows` rows of x. `site` names the layer to the adapters; -1: no adapter takes part.
// Throws std::invalid_argument when shapes, types or an adapter's pieces do not fit. Allocates only scratch, on first use of a
// shape.
void linear(Runtime& runtime, int64_t rows, const Segments& segments, const Matrix& x, const Linear& weight, int64_t site,
            Matrix& y, bool accumulate);

// y = silu(gate) * up for a weight whose parts are gate and up, y bf16 [rows, columns / 2]: the bits of `linear` followed by
// `silu_multiply`, without the float32 values ever leaving the first-level cache. Throws as `linear` does.
void gated_linear(Runtime& runtime, int64_t rows, const Segments& segments, const Matrix& x, const Linear& weight, int64_t site,
                  Matrix& y);

}  // namespace manylora

#include "manylora/linear.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>

#include "bindings.h"
#include "manylora/runtime.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace manylora {
namespace {

using Bf16Matrix = nb::ndarray<const uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatVector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Segments that keep their adapters alive.
class OwningSegments : public Segments {
 public:
  explicit OwningSegments(int64_t max_segments) : Segments(max_segments) { owners_.reserve(static_cast<size_t>(max_segments)); }

  void reset(int64_t rows) {
    Segments::reset(rows);
    owners_.clear();
  }
  void add(int64_t start, int64_t stop, nb::handle_t<Adapter> adapter) {
    Segments::add(start, stop, nb::cast<const Adapter&>(adapter));
    owners_.push_back(nb::borrow(adapter));
  }

 private:
  std::vector<nb::object> owners_;
};

Quantization parse_quantization(const std::string& name) {
  require(name == "none" || name == "int8", "quantization must be none or int8, not " + name);
  return name == "int8" ? Quantization::int8 : Quantization::none;
}

void make_linear(Linear* self, Runtime& runtime, const std::vector<Bf16Matrix>& weights,
                 const std::vector<std::optional<FloatVector>>& biases, const std::string& quantization) {
  require(weights.size() == biases.size(), "a linear layer needs one bias, or None, for each part");
  std::vector<WeightPart> parts;
  for (size_t i = 0; i < weights.size(); ++i) {
    require(weights[i].shape(1) == weights[0].shape(1), "the parts of a linear layer must have the same depth");
    WeightPart part{weights[i].data(), static_cast<int64_t>(weights[i].shape(0)), nullptr};
    if (biases[i]) {
      require(biases[i]->shape(0) == weights[i].shape(0), "a bias must have as many elements as its part has columns");
      part.bias = biases[i]->data();
    }
    parts.push_back(part);
  }
  const int64_t depth = weights.empty() ? 0 : static_cast<int64_t>(weights[0].shape(1));
  new (self) Linear(runtime, parts, depth, parse_quantization(quantization));
}

// `out` as the target of `bytes` packed bytes.
bf16* target(const Bytes& out, int64_t bytes) {
  require(static_cast<int64_t>(out.nbytes()) == bytes,
          "out has " + std::to_string(out.nbytes()) + " bytes, not " + std::to_string(bytes));
  require(reinterpret_cast<uintptr_t>(out.data()) % alignof(bf16) == 0, "out must be aligned to 2 bytes");
  return reinterpret_cast<bf16*>(out.data());
}

void require_shape(int64_t rank, int64_t other) {
  require(rank >= 1 && other >= 1, "rank, depth and columns must be at least 1");
}

void require_width(int64_t width) {
  require(width == 32 || width == 48 || width == 64, "panel width must be 32, 48 or 64, not " + std::to_string(width));
}

void bind_packing(nb::module_& m) {
  m.def(
      "panel_width", [](const std::vector<int64_t>& part_columns) { return panel_width(part_columns); }, "part_columns"_a,
      "Columns of one panel of a weight with these parts: a constant of the shape.");
  m.def(
      "lora_a_bytes",
      [](int64_t rank, int64_t depth) {
        require_shape(rank, depth);
        return lora_a_bytes(rank, depth);
      },
      "rank"_a, "depth"_a, "Bytes of a packed A.");
  m.def(
      "lora_b_bytes",
      [](int64_t rank, int64_t columns, int64_t width) {
        require_shape(rank, columns);
        require_width(width);
        return lora_b_bytes(rank, columns, width);
      },
      "rank"_a, "columns"_a, "width"_a, "Bytes of a packed B for one part of a linear layer with that panel width.");
  m.def(
      "pack_lora_a",
      [](const Bf16Matrix& a, const Bytes& out) {
        const auto rank = static_cast<int64_t>(a.shape(0)), depth = static_cast<int64_t>(a.shape(1));
        require_shape(rank, depth);
        pack_lora_a(a.data(), rank, depth, target(out, lora_a_bytes(rank, depth)));
      },
      "a"_a, "out"_a, "Packs A [rank, depth], bfloat16 as uint16, into `lora_a_bytes` bytes.");
  m.def(
      "pack_lora_b",
      [](const Bf16Matrix& b, int64_t width, const Bytes& out) {
        const auto columns = static_cast<int64_t>(b.shape(0)), rank = static_cast<int64_t>(b.shape(1));
        require_shape(rank, columns);
        require_width(width);
        pack_lora_b(b.data(), columns, rank, width, target(out, lora_b_bytes(rank, columns, width)));
      },
      "b"_a, "width"_a, "out"_a, "Packs B [columns, rank], bfloat16 as uint16, into `lora_b_bytes` bytes.");
}

void bind_adapter(nb::module_& m) {
  nb::class_<Adapter>(m, "Adapter", "Where the packed pieces of one resident adapter lie in an arena.")
      .def(nb::init<const Memory&>(), "arena"_a, nb::keep_alive<1, 2>())
      .def(
          "set",
          [](Adapter& self, int64_t site, int64_t part, int64_t rank, float scale, int64_t a_offset, int64_t b_offset,
             int64_t column_scale_offset,
             int64_t bias_offset) { self.set(site, part, {rank, scale, a_offset, b_offset, column_scale_offset, bias_offset}); },
          "site"_a, "part"_a, "rank"_a, "scale"_a, "a_offset"_a, "b_offset"_a, "column_scale_offset"_a = -1, "bias_offset"_a = -1,
          "Sets the pieces of one part of one linear layer, once. Offsets are in bytes, multiples of 64, -1 for none; column "
          "scale and\n"
          "bias are float32, one per column of the part. The bias takes the place of the layer's.");
  nb::class_<OwningSegments>(m, "Segments", "The rows of a step grouped by adapter, ascending. Rows in no segment are base rows.")
      .def(
          "__init__",
          [](OwningSegments* self, int64_t max_segments) {
            require(max_segments >= 0, "max_segments must not be negative");
            new (self) OwningSegments(max_segments);
          },
          "max_segments"_a)
      .def("reset", &OwningSegments::reset, "rows"_a, "Forgets all segments; the step has `rows` rows.")
      .def("add", &OwningSegments::add, "start"_a, "stop"_a, "adapter"_a,
           "Rows [start, stop), after those of the last segment, answer with `adapter`.")
      .def("__len__", [](const OwningSegments& self) { return self.size(); })
      .def_prop_ro("rows", [](const OwningSegments& self) { return self.rows(); });
}

}  // namespace

void bind_linear(nb::module_& m) {
  bind_packing(m);
  bind_adapter(m);
  nb::class_<Linear>(m, "Linear", "A base weight packed for the kernels, its parts fused.")
      .def("__init__", &make_linear, "runtime"_a, "parts"_a, "biases"_a, "quantization"_a = "none",
           "Packs parts [columns, depth], bfloat16 as uint16, each with a float32 bias [columns] or None. `quantization` is\n"
           "'none', or 'int8': rotated and rounded to int8, one scale per column.")
      .def_prop_ro("columns", &Linear::columns)
      .def_prop_ro("depth", &Linear::depth)
      .def_prop_ro("width", &Linear::width)
      .def_prop_ro("bytes", &Linear::bytes)
      .def_prop_ro("part_columns", &Linear::part_columns);
  m.def(
      "linear",
      [](Runtime& runtime, int64_t rows, const OwningSegments& segments, const Matrix& x, const Linear& weight, int64_t site,
         Matrix& y, bool accumulate) { linear(runtime, rows, segments, x, weight, site, y, accumulate); },
      "runtime"_a, "rows"_a, "segments"_a, "x"_a, "weight"_a, "site"_a, "y"_a, "accumulate"_a,
      "y = (accumulate ? y : 0) + [column scale *] (x W^T + lora) + bias for the first `rows` rows: x bfloat16 [rows, depth],\n"
      "y float32 [rows, columns]. `site` is layer * 4 + {qkv 0, o 1, gate_up 2, down 3}; -1: no adapter takes part.");
  m.def(
      "gated_linear",
      [](Runtime& runtime, int64_t rows, const OwningSegments& segments, const Matrix& x, const Linear& weight, int64_t site,
         Matrix& y) { gated_linear(runtime, rows, segments, x, weight, site, y); },
      "runtime"_a, "rows"_a, "segments"_a, "x"_a, "weight"_a, "site"_a, "y"_a,
      "y = silu(gate) * up of a weight whose parts are gate and up; y bfloat16 [rows, columns / 2]. The bits of `linear` and\n"
      "then `silu_multiply`.");
}

}  // namespace manylora

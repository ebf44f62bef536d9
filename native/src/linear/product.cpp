// One product: check, shrink all segments, then all panels.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "manylora/linear.h"
#include "manylora/runtime.h"
#include "manylora/ticks.h"

namespace manylora {
namespace {

constexpr int64_t kShrinkRows = 32;   // of one shrink task
constexpr int64_t kShrinkRanks = 16;  // of one shrink task
constexpr int64_t kPanelRows = 32;    // fewest rows for which a panel is worth reading twice

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

[[noreturn]] void refuse(const std::string& what, int64_t got, int64_t wanted) {
  throw std::invalid_argument("linear: " + what + " is " + std::to_string(got) + ", not " + std::to_string(wanted));
}

void check_shapes(int64_t rows, const Segments& segments, const Matrix& x, const Linear& weight, const Matrix& y) {
  if (x.dtype() != Dtype::bfloat16) throw std::invalid_argument("linear: x must be bfloat16");
  if (y.dtype() != Dtype::float32) throw std::invalid_argument("linear: y must be float32");
  if (rows < 0 || rows > x.rows() || rows > y.rows()) {
    throw std::invalid_argument("linear: " + std::to_string(rows) + " rows do not fit x with " + std::to_string(x.rows()) +
                                " and y with " + std::to_string(y.rows()));
  }
  if (x.columns() != weight.depth()) refuse("the width of x", x.columns(), weight.depth());
  if (y.columns() != weight.columns()) refuse("the width of y", y.columns(), weight.columns());
  if (segments.size() > 0 && segments.rows() != rows) refuse("the rows of the segments", segments.rows(), rows);
}

void check_piece(const Adapter& adapter, int64_t offset, int64_t bytes, const char* what) {
  if (offset >= 0 && offset > adapter.bytes() - bytes) {
    throw std::invalid_argument(std::string("linear: the adapter's ") + what + " at " + std::to_string(offset) + " needs " +
                                std::to_string(bytes) + " bytes, past the end of its arena of " +
                                std::to_string(adapter.bytes()));
  }
}

// What the adapters of a step add to one product, in the runtime's scratch.
struct LoraPlan {
  Expansion* expansions = nullptr;  // grouped by part, ascending rows
  int64_t first[Adapter::kParts + 1] = {};
  ShrinkJob* jobs = nullptr;
  int64_t job_count = 0;
};

// How much scratch a plan takes; also checks every piece that takes part.
struct LoraSize {
  int64_t expansions = 0, jobs = 0, s_elements = 0;
};

constexpr int64_t kLine = 32;  // bf16 values in 64 bytes

int64_t s_elements(int64_t rows, int64_t rank) { return ceil_div(rows * even(rank), kLine) * kLine; }

LoraSize measure(const Segments& segments, const Linear& weight, int64_t site) {
  LoraSize size;
  for (size_t i = 0; i < segments.size(); ++i) {
    const auto& [start, stop, adapter] = segments[i];
    for (size_t part = 0; part < weight.part_columns().size(); ++part) {
      const AdapterPart* piece = adapter->find(site, static_cast<int64_t>(part));
      if (piece == nullptr) continue;
      const int64_t columns = weight.part_columns()[part];
      check_piece(*adapter, piece->a, lora_a_bytes(piece->rank, weight.depth()), "A");
      check_piece(*adapter, piece->b, lora_b_bytes(piece->rank, columns, weight.width()), "B");
      check_piece(*adapter, piece->column_scale, columns * 4, "column scale");
      check_piece(*adapter, piece->bias, columns * 4, "bias");
      size.expansions += 1;
      size.jobs += ceil_div(stop - start, kShrinkRows) * ceil_div(piece->rank, kShrinkRanks);
      size.s_elements += s_elements(stop - start, piece->rank);
    }
  }
  return size;
}

// Appends the shrink tasks of one segment's part, whose result is `s`.
void add_jobs(LoraPlan& plan, const Matrix& x, const Segment& segment, const AdapterPart& piece, bf16* s) {
  const int64_t stride = even(piece.rank), pitch = lora_a_bytes(1, x.columns()) / 2;
  const auto* a = reinterpret_cast<const bf16*>(segment.adapter->data() + piece.a);
  for (int64_t row = segment.start; row < segment.stop; row += kShrinkRows) {
    bf16* s_row = s + (row - segment.start) * stride;
    const int64_t rows = std::min(kShrinkRows, segment.stop - row);
    for (int64_t rank = 0; rank < piece.rank; rank += kShrinkRanks) {
      plan.jobs[plan.job_count++] = {x.bf16s() + row * x.stride(),
                                     x.stride(),
                                     rows,
                                     a + rank * pitch,
                                     std::min(kShrinkRanks, piece.rank - rank),
                                     x.columns(),
                                     piece.scale,
                                     s_row + rank,
                                     stride};
    }
    for (int64_t r = 0; r < rows && stride != piece.rank; ++r) s_row[r * stride + piece.rank] = 0;
  }
}

LoraPlan plan_lora(Runtime& runtime, const Segments& segments, const Matrix& x, const Linear& weight, int64_t site) {
  LoraPlan plan;
  if (site < 0 || segments.size() == 0) return plan;
  const LoraSize size = measure(segments, weight, site);
  if (size.expansions == 0) return plan;
  const size_t s_bytes = static_cast<size_t>(size.s_elements) * sizeof(bf16);
  const size_t expansion_bytes = static_cast<size_t>(size.expansions) * sizeof(Expansion);
  std::byte* scratch = runtime.scratch(s_bytes + expansion_bytes + static_cast<size_t>(size.jobs) * sizeof(ShrinkJob));
  auto* s = reinterpret_cast<bf16*>(scratch);
  plan.expansions = reinterpret_cast<Expansion*>(scratch + s_bytes);
  plan.jobs = reinterpret_cast<ShrinkJob*>(scratch + s_bytes + expansion_bytes);
  int64_t count = 0;
  for (size_t part = 0; part < weight.part_columns().size(); ++part) {
    for (size_t i = 0; i < segments.size(); ++i) {
      const Segment& segment = segments[i];
      const AdapterPart* piece = segment.adapter->find(site, static_cast<int64_t>(part));
      if (piece == nullptr) continue;
      const std::byte* data = segment.adapter->data();
      const auto floats = [data](int64_t offset) { return offset < 0 ? nullptr : reinterpret_cast<const float*>(data + offset); };
      plan.expansions[count++] = {segment.start,
                                  segment.stop,
                                  s,
                                  even(piece->rank),
                                  piece->rank,
                                  reinterpret_cast<const bf16*>(data + piece->b),
                                  floats(piece->column_scale),
                                  floats(piece->bias)};
      add_jobs(plan, x, segment, *piece, s);
      s += s_elements(segment.stop - segment.start, piece->rank);
    }
    plan.first[part + 1] = count;
  }
  return plan;
}

}  // namespace

void linear(Runtime& runtime, int64_t rows, const Segments& segments, const Matrix& x, const Linear& weight, int64_t site,
            Matrix& y, bool accumulate) {
  check_shapes(rows, segments, x, weight, y);
  if (rows == 0) return;
  Lap lap(runtime.times());
  const LoraPlan plan = plan_lora(runtime, segments, x, weight, site);
  const auto shrink = runtime.kernels().lora.shrink;
  runtime.workers().run(plan.job_count, [&](int64_t index) { shrink(plan.jobs[index]); });
  const bool adapted = plan.expansions != nullptr;
  lap.charge(adapted ? Part::lora : Part::base);

  // With fewer panels than keep all threads busy, rows are split as well.
  const int64_t wanted = ceil_div(4 * runtime.workers().threads(), weight.panels());
  const int64_t blocks = runtime.workers().threads() == 1 ? 1 : std::min(wanted, ceil_div(rows, kPanelRows));
  const int64_t block_rows = ceil_div(rows, blocks);
  const auto panel = runtime.kernels().linear.panel;
  runtime.workers().run(weight.panels() * blocks, [&](int64_t index, int worker) {
    const int64_t start = index % blocks * block_rows;
    const Linear::Place place = weight.place(index / blocks);
    const int64_t first = plan.first[place.part];
    const int64_t next = index / blocks + runtime.workers().threads();  // threads take turns, mostly
    PartTimes::Shared* shared = adapted ? runtime.times().of_worker(worker) : nullptr;
    const uint64_t began = shared == nullptr ? 0 : ticks();
    panel({.x = x.bf16s(),
           .x_stride = x.stride(),
           .start = start,
           .stop = std::min(rows, start + block_rows),
           .depth = weight.depth(),
           .panel = weight.panel(index / blocks),
           .width = weight.width(),
           .columns = place.columns,
           .index = place.index,
           .bias = weight.bias(place),
           .y = y.floats() + place.column,
           .y_stride = y.stride(),
           .accumulate = accumulate,
           .expansions = plan.expansions + first,
           .expansion_count = plan.first[place.part + 1] - first,
           .next_panel = next < weight.panels() ? weight.panel(next) : nullptr,
           .expand_ticks = shared == nullptr ? nullptr : &shared->expand});
    if (shared != nullptr) shared->whole += ticks() - began;
  });
  lap.charge_shared();
}

}  // namespace manylora

// One product: check, shrink all segments, then all panels.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "manylora/linear.h"
#include "manylora/runtime.h"
#include "manylora/ticks.h"

namespace manylora {
namespace {

constexpr int64_t kShrinkRows = 64;   // of one shrink task
constexpr int64_t kShrinkRanks = 16;  // of one shrink task
constexpr int64_t kPanelRows = 32;    // fewest rows for which a panel is worth reading twice
constexpr int64_t kGatedRows = 32;    // whose gates wait for their up
constexpr int64_t kMaxWidth = 64;     // of a panel
constexpr int64_t kRunBytes = int64_t{1} << 20;  // of adjacent panels that one task reads

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

[[noreturn]] void refuse(const std::string& what, int64_t got, int64_t wanted) {
  throw std::invalid_argument("linear: " + what + " is " + std::to_string(got) + ", not " + std::to_string(wanted));
}

void check_operands(int64_t rows, const Segments& segments, const Matrix& x, const Linear& weight, const Matrix& y) {
  if (x.dtype() != Dtype::bfloat16) throw std::invalid_argument("linear: x must be bfloat16");
  if (rows < 0 || rows > x.rows() || rows > y.rows()) {
    throw std::invalid_argument("linear: " + std::to_string(rows) + " rows do not fit x with " + std::to_string(x.rows()) +
                                " and y with " + std::to_string(y.rows()));
  }
  if (x.columns() != weight.depth()) refuse("the width of x", x.columns(), weight.depth());
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

// Elements of one row of s: whole lines, zero behind the rank, so that tiles may read it in blocks.
int64_t s_stride(int64_t rank) { return ceil_div(rank, kLine) * kLine; }

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
      size.s_elements += (stop - start) * s_stride(piece->rank);
    }
  }
  return size;
}

// Appends the shrink tasks of one segment's part, whose result is `s`.
void add_jobs(LoraPlan& plan, const Matrix& x, const Segment& segment, const AdapterPart& piece, bf16* s) {
  const int64_t stride = s_stride(piece.rank), pitch = lora_a_bytes(1, x.columns()) / 2;
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
                                     stride,
                                     rank + kShrinkRanks < piece.rank ? 0 : stride - piece.rank};
    }
  }
}

// Takes the scratch for the plan and for `quantizer`.
LoraPlan plan_lora(Runtime& runtime, const Segments& segments, const Matrix& x, const Linear& weight, int64_t site,
                   RowQuantizer& quantizer) {
  LoraPlan plan;
  const LoraSize size = site < 0 ? LoraSize{} : measure(segments, weight, site);
  const size_t s_bytes = static_cast<size_t>(size.s_elements) * sizeof(bf16);
  const size_t expansion_bytes = static_cast<size_t>(size.expansions) * sizeof(Expansion);
  const size_t job_bytes = static_cast<size_t>(size.jobs) * sizeof(ShrinkJob);
  std::byte* scratch = runtime.scratch(quantizer.bytes() + s_bytes + expansion_bytes + job_bytes);
  quantizer.place(scratch);
  if (size.expansions == 0) return plan;
  scratch += quantizer.bytes();
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
                                  s_stride(piece->rank),
                                  piece->rank,
                                  reinterpret_cast<const bf16*>(data + piece->b),
                                  floats(piece->column_scale),
                                  floats(piece->bias)};
      add_jobs(plan, x, segment, *piece, s);
      s += (segment.stop - segment.start) * s_stride(piece->rank);
    }
    plan.first[part + 1] = count;
  }
  return plan;
}

void run_shrink(const LoraKernels& kernels, const ShrinkJob& job) {
  kernels.shrink(job);
  for (int64_t r = 0; r < job.rows; ++r) std::fill_n(job.s + r * job.s_stride + job.ranks, job.padding, bf16{0});
}

// Counts a task's time for its worker: all of it, and as that of low-rank terms if it is nothing else.
class SharedTimer {
 public:
  SharedTimer(PartTimes::Shared* shared, bool low_rank)
      : shared_(shared), low_rank_(low_rank), began_(shared == nullptr ? 0 : ticks()) {}
  ~SharedTimer() {
    if (shared_ == nullptr) return;
    const uint64_t passed = ticks() - began_;
    shared_->whole += passed;
    if (low_rank_) shared_->low_rank += passed;
  }

 private:
  PartTimes::Shared* shared_;
  bool low_rank_;
  uint64_t began_;
};

// What all panels of a product have in common.
struct Product {
  Lap lap;
  Runtime& runtime;
  int64_t rows;
  const Matrix& x;
  const Linear& weight;
  const bool int8;
  RowQuantizer quantizer;
  LoraPlan lora;

  Product(Runtime& on, int64_t of_rows, const Segments& segments, const Matrix& from, const Linear& by, int64_t site)
      : lap(on.times()), runtime(on), rows(of_rows), x(from), weight(by), int8(by.quantization() == Quantization::int8),
        quantizer(int8 ? RowQuantizer(on, of_rows, from) : RowQuantizer()),
        lora(plan_lora(on, segments, from, by, site, quantizer)) {
    const LoraKernels& kernels = runtime.kernels().lora;
    runtime.workers().run(quantizer.tasks() + lora.job_count, [&](int64_t index, int worker) {
      const SharedTimer timer(shared_of(worker), index >= quantizer.tasks());
      index < quantizer.tasks() ? quantizer.run(index, worker) : run_shrink(kernels, lora.jobs[index - quantizer.tasks()]);
    });
    lap.charge_shared();
  }

  // Null unless somebody asks where the time goes, and there are low-rank terms that it may go to.
  PartTimes::Shared* shared_of(int worker) { return lora.expansions == nullptr ? nullptr : runtime.times().of_worker(worker); }

  void (*panel() const)(const PanelJob&) {
    const LinearKernels& kernels = runtime.kernels().linear;
    return int8 ? kernels.int8_panel : kernels.panel;
  }

  // Calls work(panel, start, stop, expand_ticks) for all rows [start, stop) of `panels` panels. A task takes a run of adjacent
  // panels: only long sequential reads draw the memory's whole bandwidth. With fewer panels than keep all threads busy, rows are
  // split as well.
  template <class Work>
  void run(int64_t panels, const Work& work) {
    const int64_t threads = runtime.workers().threads();
    const int64_t blocks = threads == 1 ? 1 : std::min(ceil_div(4 * threads, panels), ceil_div(rows, kPanelRows));
    const int64_t block = ceil_div(rows, blocks);
    const int64_t most = std::max<int64_t>(1, kRunBytes / weight.panel_bytes());
    const int64_t per_run = std::clamp<int64_t>(panels / (2 * threads), 1, most), runs = ceil_div(panels, per_run);
    runtime.workers().run(runs * blocks, [&](int64_t task, int worker) {
      PartTimes::Shared* shared = shared_of(worker);
      const SharedTimer timer(shared, false);
      const int64_t start = task % blocks * block, first = task / blocks * per_run;
      for (int64_t panel = first; panel < std::min(panels, first + per_run); ++panel) {
        work(panel, start, std::min(rows, start + block), shared == nullptr ? nullptr : &shared->low_rank);
      }
    });
    lap.charge_shared();
  }

  PanelJob job(int64_t panel, int64_t start, int64_t stop, float* y, int64_t y_stride, uint64_t* expand_ticks) const {
    const Linear::Place place = weight.place(panel);
    const int64_t first = lora.first[place.part];
    return {.x = x.bf16s(),
            .x_stride = x.stride(),
            .start = start,
            .stop = stop,
            .depth = weight.depth(),
            .panel = weight.panel(panel),
            .int8 = quantizer.result(),
            .width = weight.width(),
            .columns = place.columns,
            .index = place.index,
            .bias = weight.bias(place),
            .y = y,
            .y_stride = y_stride,
            .accumulate = false,
            .cold = stop - start <= kPanelRows,
            .expansions = lora.expansions + first,
            .expansion_count = lora.first[place.part + 1] - first,
            .next = weight.next(panel),
            .expand_ticks = expand_ticks};
  }
};

// One panel of the gate and its panel of up, for rows [start, stop). Their float32 values stay in the first-level cache.
void gated_panel(const Product& product, int64_t index, int64_t start, int64_t stop, Matrix& y, uint64_t* expand_ticks) {
  const Linear& weight = product.weight;
  const int64_t width = weight.width(), gates = weight.panels() / 2;
  const auto panel = product.panel();
  const auto silu_multiply = product.runtime.kernels().activation.silu_multiply;
  alignas(64) float gate[kGatedRows * kMaxWidth], up[kGatedRows * kMaxWidth];
  for (int64_t row = start; row < stop; row += kGatedRows) {
    const int64_t end = std::min(stop, row + kGatedRows);
    PanelJob of_gate = product.job(index, row, end, gate - row * width, width, expand_ticks);
    PanelJob of_up = product.job(gates + index, row, end, up - row * width, width, expand_ticks);
    of_gate.cold = of_up.cold = stop - start <= kGatedRows;
    for (PanelJob* job : {&of_gate, &of_up}) {  // every block of rows fetches its share
      const int64_t from = job->next.lines * (row - start) / (stop - start);
      const int64_t to = job->next.lines * (end - start) / (stop - start);
      job->next = {job->next.at + 64 * from, to - from};
    }
    panel(of_gate);
    panel(of_up);
    for (int64_t r = row; r < end; ++r) {
      silu_multiply(gate + (r - row) * width, up + (r - row) * width, of_gate.columns,
                    y.bf16s() + r * y.stride() + index * width);
    }
  }
}

}  // namespace

void linear(Runtime& runtime, int64_t rows, const Segments& segments, const Matrix& x, const Linear& weight, int64_t site,
            Matrix& y, bool accumulate) {
  check_operands(rows, segments, x, weight, y);
  if (y.dtype() != Dtype::float32) throw std::invalid_argument("linear: y must be float32");
  if (y.columns() != weight.columns()) refuse("the width of y", y.columns(), weight.columns());
  if (rows == 0) return;
  Product product(runtime, rows, segments, x, weight, site);
  const auto panel = product.panel();
  product.run(weight.panels(), [&](int64_t index, int64_t start, int64_t stop, uint64_t* ticks) {
    PanelJob job = product.job(index, start, stop, y.floats() + weight.place(index).column, y.stride(), ticks);
    job.accumulate = accumulate;
    panel(job);
  });
}

void gated_linear(Runtime& runtime, int64_t rows, const Segments& segments, const Matrix& x, const Linear& weight, int64_t site,
                  Matrix& y) {
  check_operands(rows, segments, x, weight, y);
  if (y.dtype() != Dtype::bfloat16) throw std::invalid_argument("gated_linear: y must be bfloat16");
  const std::vector<int64_t>& parts = weight.part_columns();
  if (parts.size() != 2 || parts[0] != parts[1]) throw std::invalid_argument("gated_linear: the weight must be gate and up");
  if (y.columns() != parts[0]) refuse("the width of y", y.columns(), parts[0]);
  if (rows == 0) return;
  Product product(runtime, rows, segments, x, weight, site);
  product.run(weight.panels() / 2, [&](int64_t index, int64_t start, int64_t stop, uint64_t* ticks) {
    gated_panel(product, index, start, stop, y, ticks);
  });
}

}  // namespace manylora

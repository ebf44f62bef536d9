// The low-rank half of a product: y += B (bf16(scale * (A x))), for segments of rows that share an adapter.
//
// Shrink: s[row, j] = sum over k of x[row, k] * a[j, k]. The sum runs in L lanes, lane l taking the depths (or depth pairs, in
// ascending order) congruent to l, fp32 accumulators; the lanes are then added as a tree of halves. L is a constant of the
// capability (scalar and avx2: 16 depths; avx512bf16: 16 pairs; amx: one lane, in blocks of 32 depths), so the bits of s never
// depend on rows, rank or threads. s is multiplied by the scale in fp32 and rounded once to bf16. Expand is in linear.h: it
// continues the base product's accumulator.
//
// Packing: A is [rank][depth rounded up to 32], B is one piece per panel of the base weight, [rank pairs][panel width][2]; all
// bf16, every piece 64-byte aligned, padding zero. A rank is stored as it is; an odd rank pads one row of B.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "manylora/bfloat16.h"
#include "manylora/memory.h"

namespace manylora {

constexpr int64_t kShrinkDepth = 32;  // depths of A are padded to this

inline int64_t even(int64_t rank) { return (rank + 1) / 2 * 2; }

// Bytes of packed factors. `columns` is of one part, `width` the panel width of its Linear.
int64_t lora_a_bytes(int64_t rank, int64_t depth);
int64_t lora_b_bytes(int64_t rank, int64_t columns, int64_t width);

// a [rank, depth] and b [columns, rank], row-major bf16; `out` holds the bytes above.
void pack_lora_a(const bf16* a, int64_t rank, int64_t depth, bf16* out);
void pack_lora_b(const bf16* b, int64_t columns, int64_t rank, int64_t width, bf16* out);

// One block of shrink outputs: rows [0, rows) times ranks [0, ranks).
struct ShrinkJob {
  const bf16* x;     // first row
  int64_t x_stride;  // elements
  int64_t rows;
  const bf16* a;  // first of `ranks` packed rows
  int64_t ranks;
  int64_t depth;
  float scale;
  bf16* s;           // [rows, ranks] at stride s_stride
  int64_t s_stride;  // elements
  int64_t padding;   // elements behind the ranks that must be zero: not the kernel's business
};

struct LoraKernels {
  void (*shrink)(const ShrinkJob& job);
};

extern const LoraKernels lora_scalar, lora_avx2, lora_avx512bf16, lora_amx;

// Where the pieces of one adapter lie for one part of one linear layer. Offsets in bytes from the start of the arena.
struct AdapterPart {
  int64_t rank = 0;  // 0: the adapter does not touch this part
  float scale = 0.0f;
  int64_t a = -1, b = -1;
  int64_t column_scale = -1, bias = -1;  // float32 [columns of the part]; -1: none
};

// The resident pieces of one adapter: (site, part) -> AdapterPart. The bytes live in an arena that must outlive it.
class Adapter {
 public:
  static constexpr int kParts = 3;

  explicit Adapter(const Memory& arena) : arena_(&arena) {}

  // Throws std::invalid_argument for offsets outside the arena or not 64-byte aligned, and for a (site, part) set twice.
  void set(int64_t site, int64_t part, const AdapterPart& piece);

  // Null if the adapter leaves that part alone.
  const AdapterPart* find(int64_t site, int64_t part) const {
    const size_t index = static_cast<size_t>(site * kParts + part);
    return index < parts_.size() && parts_[index].rank > 0 ? &parts_[index] : nullptr;
  }
  const std::byte* data() const { return arena_->data(); }
  int64_t bytes() const { return static_cast<int64_t>(arena_->bytes()); }

 private:
  const Memory* arena_;
  std::vector<AdapterPart> parts_;
};

// Rows [start, stop) answer with `adapter`.
struct Segment {
  int64_t start, stop;
  const Adapter* adapter;
};

// The rows of a step grouped by adapter, ascending. Rows in no segment belong to the base model and cost nothing.
class Segments {
 public:
  explicit Segments(int64_t max_segments) { segments_.reserve(static_cast<size_t>(max_segments)); }

  // Forgets all segments; the step has `rows` rows.
  void reset(int64_t rows);

  // Throws std::invalid_argument unless the segment is non-empty, within the rows, after the last one, and there is space for it.
  void add(int64_t start, int64_t stop, const Adapter& adapter);

  int64_t rows() const { return rows_; }
  size_t size() const { return segments_.size(); }
  const Segment& operator[](size_t index) const { return segments_[index]; }

 private:
  std::vector<Segment> segments_;
  int64_t rows_ = 0;
};

}  // namespace manylora

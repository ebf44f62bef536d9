// Rows of bf16 as int8, for products with an int8 weight. Both operands are rotated before they are rounded: a few large elements
// would cost the many small ones their precision.
//
// A row is padded with zeros to a multiple of 64. Every 64 elements are multiplied by the Hadamard matrix H of that size, whose
// elements are +1 and -1, by six stages of (a, b) -> (a + b, a - b) over distances 32, 16, 8, 4, 2, 1, in fp32. H H = 64 I, so
// the product of two rotated rows is 64 times that of the rows; the 64 is divided out of the weight's scales, exactly. Then
//   scale = largest / 127, q = round(element * (127 / largest)), to nearest, ties to even,
// with `largest` the largest magnitude of the rotated row: |q| <= 127. A row whose largest is below 2^-120 is zero: its scale and
// all q are 0. A row with infinities or NaN has the scale NaN and all q 0. q is stored as q + 128, unsigned. Every instruction
// set gives the same bits.
#pragma once

#include <cstdint>

#include "manylora/bfloat16.h"
#include "manylora/memory.h"

namespace manylora {

class Runtime;

constexpr int64_t kRotation = 64;   // elements rotated together, and the padding of a row
constexpr uint8_t kInt8Zero = 128;  // q = 0 as it is stored

[[gnu::always_inline]] inline int64_t padded_depth(int64_t depth) { return (depth + kRotation - 1) / kRotation * kRotation; }

struct QuantizeKernels {
  // One row x [depth] into q [padded depth] and *scale. `rotated` is fp32 scratch [padded depth], 64-byte aligned.
  void (*row)(const bf16* x, int64_t depth, float* rotated, uint8_t* q, float* scale);
};

extern const QuantizeKernels quantize_scalar, quantize_avx2, quantize_avx512bf16;

// The rows of x as int8.
struct Int8Rows {
  const uint8_t* q = nullptr;  // [rows, padded depth], a 64-byte aligned row every `stride` bytes
  int64_t stride = 0;
  const float* scales = nullptr;  // [rows]
};

// Rounds the first rows of x in tasks that may run side by side, into memory that it is given.
class RowQuantizer {
 public:
  // No tasks.
  RowQuantizer() = default;
  RowQuantizer(Runtime& runtime, int64_t rows, const Matrix& x);

  int64_t tasks() const { return tasks_; }
  size_t bytes() const;  // of the memory that it needs, a multiple of 64
  void place(std::byte* memory);
  const Int8Rows& result() const { return result_; }  // complete after all tasks
  void run(int64_t task, int worker) const;

 private:
  const Matrix* x_ = nullptr;
  QuantizeKernels kernels_{};
  int64_t rows_ = 0, rows_of_task_ = 0, tasks_ = 0, threads_ = 0;
  Int8Rows result_;
  uint8_t* q_ = nullptr;
  float *scales_ = nullptr, *rotated_ = nullptr;
};

}  // namespace manylora

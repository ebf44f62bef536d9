#include "manylora/quantize.h"

#include <algorithm>

#include "manylora/runtime.h"

namespace manylora {
namespace {

constexpr int64_t kTaskElements = 8192;  // a few microseconds: well above the cost of handing a task out
constexpr int64_t kLine = 64, kPage = 4096;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

RowQuantizer::RowQuantizer(Runtime& runtime, int64_t rows, const Matrix& x)
    : x_(&x),
      kernels_(runtime.kernels().quantize),
      rows_(rows),
      rows_of_task_(std::max<int64_t>(1, kTaskElements / x.columns())),
      tasks_(ceil_div(rows, rows_of_task_)),
      threads_(runtime.workers().threads()) {
  const int64_t padded = padded_depth(x.columns());
  result_.stride = padded % kPage == 0 ? padded + kLine : padded;  // rows a page apart would fall on the same cache sets
}

size_t RowQuantizer::bytes() const {
  if (tasks_ == 0) return 0;
  const int64_t scales = ceil_div(rows_ * 4, kLine) * kLine, rotated = threads_ * padded_depth(x_->columns()) * 4;
  return static_cast<size_t>(rows_ * result_.stride + scales + rotated);
}

void RowQuantizer::place(std::byte* memory) {
  if (tasks_ == 0) return;
  q_ = reinterpret_cast<uint8_t*>(memory);
  rotated_ = reinterpret_cast<float*>(memory + rows_ * result_.stride);
  scales_ = rotated_ + threads_ * padded_depth(x_->columns());
  result_.q = q_;
  result_.scales = scales_;
}

void RowQuantizer::run(int64_t task, int worker) const {
  float* rotated = rotated_ + worker * padded_depth(x_->columns());
  const int64_t stop = std::min(rows_, (task + 1) * rows_of_task_);
  for (int64_t row = task * rows_of_task_; row < stop; ++row) {
    kernels_.row(x_->bf16s() + row * x_->stride(), x_->columns(), rotated, q_ + row * result_.stride, scales_ + row);
  }
}

}  // namespace manylora

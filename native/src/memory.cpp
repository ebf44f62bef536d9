#include "manylora/memory.h"

#include <sys/mman.h>
#ifdef __linux__
#include <malloc.h>
#endif

#include <new>
#include <utility>

namespace manylora {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMapping = size_t{32} << 20;  // that small pieces share

size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

int64_t padded_stride(int64_t columns, Dtype dtype) {
  const int64_t per_line = 64 / static_cast<int64_t>(size_of(dtype));
  const int64_t lines = (columns + per_line - 1) / per_line;
  return (lines | 1) * per_line;
}

}  // namespace

Memory::Memory(size_t bytes) : bytes_(bytes) {
  const bool huge = bytes >= kHugePage;
  mapped_ = huge ? round_up(bytes, kHugePage) + kHugePage : round_up(bytes, 4096);
  if (mapped_ == 0) mapped_ = 4096;
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  auto address = reinterpret_cast<uintptr_t>(mapping_);
  if (huge) address = (address + kHugePage - 1) / kHugePage * kHugePage;
  data_ = reinterpret_cast<std::byte*>(address);
#ifdef MADV_HUGEPAGE
  if (huge) madvise(data_, bytes, MADV_HUGEPAGE);  // a wish: without it the kernels are slower, not wrong
#endif
}

void Memory::populate(size_t offset, size_t bytes) const {
#ifdef MADV_POPULATE_WRITE
  const size_t first = offset / 4096 * 4096;
  madvise(data_ + first, offset + bytes - first, MADV_POPULATE_WRITE);
#endif
}

void release_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

Memory::~Memory() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

Pool::Piece Pool::take(size_t bytes) {
  const size_t taken = round_up(bytes, 64);
  if (taken > kMapping / 2) {
    auto own = std::make_shared<const Memory>(round_up(taken, kHugePage));
    return {own, own->data(), bytes};
  }
  if (mapping_ == nullptr || taken > mapping_->bytes() - used_) {
    mapping_ = std::make_shared<const Memory>(kMapping);
    used_ = 0;
  }
  used_ += taken;
  return {mapping_, mapping_->data() + used_ - taken, bytes};
}

Matrix::Matrix(int64_t rows, int64_t columns, Dtype dtype)
    : rows_(rows),
      columns_(columns),
      stride_(padded_stride(columns, dtype)),
      dtype_(dtype),
      memory_(static_cast<size_t>(rows) * static_cast<size_t>(stride_) * size_of(dtype)) {}

}  // namespace manylora

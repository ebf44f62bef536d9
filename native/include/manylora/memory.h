// Memory that kernels read and write: aligned, zeroed, in huge pages where the system grants them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace manylora {

// Owns `bytes` of zeroed, 2 MiB aligned (64 B below 2 MiB) anonymous memory. Throws std::bad_alloc.
class Memory {
 public:
  explicit Memory(size_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  // Makes [offset, offset + bytes) real now, so that its first use does not wait for the system to find the pages.
  // A wish: on a system that cannot, nothing happens.
  void populate(size_t offset, size_t bytes) const;

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  void* mapping_ = nullptr;
  size_t mapped_ = 0;
};

// Gives back to the system what the C library keeps of freed memory for later. A wish, worth it after much that was short-lived.
void release_freed_memory();

// Cuts long-lived pieces from large mappings, so that those below 2 MiB lie in huge pages too: on 4 KiB pages the look-up of
// addresses would bound how fast weights are read.
class Pool {
 public:
  // `bytes` of zeroed, 64-byte aligned memory. Its mapping is released with the last of its pieces.
  struct Piece {
    std::shared_ptr<const Memory> mapping;
    std::byte* data;
    size_t bytes;
  };

  // Throws std::bad_alloc.
  Piece take(size_t bytes);

 private:
  std::shared_ptr<const Memory> mapping_;  // that the next piece is cut from
  size_t used_ = 0;
};

enum class Dtype { float32, bfloat16 };

inline size_t size_of(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

// A dense matrix of activations, rows by columns. The row stride (in elements) is padded to a multiple of 64 bytes that is not a
// multiple of 4096 bytes: rows a page apart would fall on the same cache sets.
class Matrix {
 public:
  Matrix(int64_t rows, int64_t columns, Dtype dtype);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t stride() const { return stride_; }  // elements
  Dtype dtype() const { return dtype_; }
  std::byte* data() const { return memory_.data(); }
  float* floats() const { return reinterpret_cast<float*>(memory_.data()); }
  uint16_t* bf16s() const { return reinterpret_cast<uint16_t*>(memory_.data()); }

 private:
  int64_t rows_, columns_, stride_;
  Dtype dtype_;
  Memory memory_;
};

}  // namespace manylora

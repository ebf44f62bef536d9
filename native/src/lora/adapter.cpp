#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "manylora/lora.h"

namespace manylora {
namespace {

int64_t padded_depth(int64_t depth) { return (depth + kShrinkDepth - 1) / kShrinkDepth * kShrinkDepth; }

void check_offset(const char* what, int64_t offset, int64_t bytes, bool optional) {
  if (optional && offset == -1) return;
  if (offset < 0 || offset >= bytes || offset % 64 != 0) {
    throw std::invalid_argument(std::string(what) + " offset " + std::to_string(offset) +
                                " is not a multiple of 64 inside the arena of " + std::to_string(bytes) + " bytes");
  }
}

}  // namespace

int64_t lora_a_bytes(int64_t rank, int64_t depth) { return rank * padded_depth(depth) * 2; }

int64_t lora_b_bytes(int64_t rank, int64_t columns, int64_t width) {
  return (columns + width - 1) / width * width * even(rank) * 2;
}

void pack_lora_a(const bf16* a, int64_t rank, int64_t depth, bf16* out) {
  const int64_t pitch = padded_depth(depth);
  for (int64_t j = 0; j < rank; ++j) {
    std::memcpy(out + j * pitch, a + j * depth, static_cast<size_t>(depth) * sizeof(bf16));
    std::fill(out + j * pitch + depth, out + (j + 1) * pitch, bf16{0});
  }
}

void pack_lora_b(const bf16* b, int64_t columns, int64_t rank, int64_t width, bf16* out) {
  const int64_t ranks = even(rank);
  for (int64_t first = 0; first < columns; first += width, out += ranks * width) {
    for (int64_t j = 0; j < ranks; ++j) {
      for (int64_t c = 0; c < width; ++c) {
        const bool real = j < rank && first + c < columns;
        out[(j / 2 * width + c) * 2 + j % 2] = real ? b[(first + c) * rank + j] : bf16{0};
      }
    }
  }
}

void Adapter::set(int64_t site, int64_t part, const AdapterPart& piece) {
  if (site < 0 || part < 0 || part >= kParts) {
    throw std::invalid_argument("site " + std::to_string(site) + ", part " + std::to_string(part) +
                                " does not exist: sites count from 0, parts from 0 to 2");
  }
  if (piece.rank < 1) throw std::invalid_argument("rank must be at least 1, not " + std::to_string(piece.rank));
  check_offset("A", piece.a, bytes(), false);
  check_offset("B", piece.b, bytes(), false);
  check_offset("column scale", piece.column_scale, bytes(), true);
  check_offset("bias", piece.bias, bytes(), true);
  const size_t index = static_cast<size_t>(site * kParts + part);
  if (index >= parts_.size()) parts_.resize((static_cast<size_t>(site) + 1) * kParts);
  if (parts_[index].rank > 0) {
    throw std::invalid_argument("site " + std::to_string(site) + ", part " + std::to_string(part) + " is set already");
  }
  parts_[index] = piece;
}

void Segments::reset(int64_t rows) {
  if (rows < 0) throw std::invalid_argument("rows must not be negative");
  segments_.clear();
  rows_ = rows;
}

void Segments::add(int64_t start, int64_t stop, const Adapter& adapter) {
  const int64_t last = segments_.empty() ? 0 : segments_.back().stop;
  if (start < last || stop <= start || stop > rows_) {
    throw std::invalid_argument("segment [" + std::to_string(start) + ", " + std::to_string(stop) +
                                ") must be non-empty, start at " + std::to_string(last) + " or later and end by row " +
                                std::to_string(rows_));
  }
  if (segments_.size() == segments_.capacity()) {
    throw std::invalid_argument("more than " + std::to_string(segments_.capacity()) + " segments");
  }
  segments_.push_back({start, stop, &adapter});
}

}  // namespace manylora

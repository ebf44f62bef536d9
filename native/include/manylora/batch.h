// What one step computes: its rows, the sequences they belong to, and where those keep their K and V.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace manylora {

constexpr int64_t kBlockTokens = 16;  // tokens of one K/V block

// Rows are grouped by sequence, and the rows of a sequence are consecutive positions in ascending order: one row is a decode
// step, many are a chunk of a prompt. The caller writes the arrays (plain int32), then declares with begin() how much of them is
// valid.
class Batch {
 public:
  // Throws std::invalid_argument unless every bound is at least 1.
  Batch(int64_t max_rows, int64_t max_sequences, int64_t max_slots, int64_t max_blocks);
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  // Declares the step. Throws std::invalid_argument, naming what is wrong, unless the starts rise from 0 to `rows`, slots are
  // known and distinct, positions are consecutive within a sequence and fit the block table, and every block needed has an id.
  void begin(int64_t rows, int64_t sequences);

  int64_t rows() const { return rows_; }
  int64_t sequences() const { return sequences_; }
  int64_t max_rows() const { return max_rows_; }
  int64_t max_sequences() const { return max_sequences_; }
  int64_t max_slots() const { return max_slots_; }
  int64_t max_blocks() const { return max_blocks_; }
  int64_t last_position() const { return last_position_; }  // largest of the step
  int64_t last_block() const { return last_block_; }        // largest block id of the step
  int64_t last_token() const { return last_token_; }        // largest token id of the step

  int32_t* token_ids() { return token_ids_.data(); }              // [max_rows]
  int32_t* positions() { return positions_.data(); }              // [max_rows]
  int32_t* sequence_starts() { return sequence_starts_.data(); }  // [max_sequences + 1], row offsets
  int32_t* sequence_slots() { return sequence_slots_.data(); }    // [max_sequences], rows of block_tables
  int32_t* block_tables() { return block_tables_.data(); }        // [max_slots, max_blocks]
  int32_t* gather_rows() { return gather_rows_.data(); }          // [max_rows]
  const int32_t* token_ids() const { return token_ids_.data(); }
  const int32_t* positions() const { return positions_.data(); }
  const int32_t* gather_rows() const { return gather_rows_.data(); }

  int64_t start(int64_t sequence) const { return sequence_starts_[static_cast<size_t>(sequence)]; }
  int64_t stop(int64_t sequence) const { return sequence_starts_[static_cast<size_t>(sequence) + 1]; }
  const int32_t* blocks_of(int64_t sequence) const {
    return block_tables_.data() + int64_t{sequence_slots_[static_cast<size_t>(sequence)]} * max_blocks_;
  }
  int64_t sequence_of(int64_t row) const { return row_sequences_[static_cast<size_t>(row)]; }

 private:
  void check_sequence(int64_t sequence);

  int64_t max_rows_, max_sequences_, max_slots_, max_blocks_;
  int64_t rows_ = 0, sequences_ = 0, step_ = 0;
  int64_t last_position_ = -1, last_block_ = -1, last_token_ = -1;
  std::vector<int32_t> token_ids_, positions_, sequence_starts_, sequence_slots_, block_tables_, gather_rows_;
  std::vector<int32_t> row_sequences_;  // [max_rows]
  std::vector<int64_t> slot_steps_;     // [max_slots], the last step that used the slot
};

}  // namespace manylora

#include "manylora/batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace manylora {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

std::string text(int64_t number) { return std::to_string(number); }

int64_t at_least_one(int64_t bound, const char* name) {
  if (bound < 1) refuse(std::string(name) + " must be at least 1, not " + text(bound));
  return bound;
}

}  // namespace

Batch::Batch(int64_t max_rows, int64_t max_sequences, int64_t max_slots, int64_t max_blocks)
    : max_rows_(at_least_one(max_rows, "max_rows")),
      max_sequences_(at_least_one(max_sequences, "max_sequences")),
      max_slots_(at_least_one(max_slots, "max_slots")),
      max_blocks_(at_least_one(max_blocks, "max_blocks")),
      token_ids_(static_cast<size_t>(max_rows)),
      positions_(static_cast<size_t>(max_rows)),
      sequence_starts_(static_cast<size_t>(max_sequences) + 1),
      sequence_slots_(static_cast<size_t>(max_sequences)),
      block_tables_(static_cast<size_t>(max_slots) * static_cast<size_t>(max_blocks), -1),
      gather_rows_(static_cast<size_t>(max_rows)),
      row_sequences_(static_cast<size_t>(max_rows)),
      slot_steps_(static_cast<size_t>(max_slots), -1) {}

void Batch::begin(int64_t rows, int64_t sequences) {
  rows_ = sequences_ = 0;  // a refused step leaves nothing to run
  if (rows < 1 || rows > max_rows_) refuse("a step has 1 to " + text(max_rows_) + " rows, not " + text(rows));
  if (sequences < 1 || sequences > max_sequences_) {
    refuse("a step has 1 to " + text(max_sequences_) + " sequences, not " + text(sequences));
  }
  if (start(0) != 0) refuse("sequence_starts must begin with 0, not " + text(start(0)));
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    if (stop(sequence) <= start(sequence) || stop(sequence) > rows) {
      refuse("sequence_starts must rise to " + text(rows) + ": sequence " + text(sequence) + " has " + text(start(sequence)) +
             ".." + text(stop(sequence)));
    }
  }
  if (stop(sequences - 1) != rows) {
    refuse("sequence_starts end at " + text(stop(sequences - 1)) + ", but the step has " + text(rows) + " rows");
  }
  last_position_ = last_block_ = -1;
  ++step_;
  for (int64_t sequence = 0; sequence < sequences; ++sequence) check_sequence(sequence);
  const auto [lowest, highest] = std::minmax_element(token_ids_.begin(), token_ids_.begin() + rows);
  if (*lowest < 0) refuse("token_ids must not be negative, but one is " + text(*lowest));
  last_token_ = *highest;
  rows_ = rows;
  sequences_ = sequences;
}

void Batch::check_sequence(int64_t sequence) {
  const auto name = [&] { return "sequence " + text(sequence); };  // built only to refuse
  const int64_t slot = sequence_slots_[static_cast<size_t>(sequence)];
  if (slot < 0 || slot >= max_slots_) refuse(name() + " has slot " + text(slot) + ", but there are " + text(max_slots_));
  int64_t& last_step = slot_steps_[static_cast<size_t>(slot)];
  if (last_step == step_) refuse(name() + " has slot " + text(slot) + ", as another one of the step");
  last_step = step_;
  const int64_t first = positions_[static_cast<size_t>(start(sequence))];
  const int64_t last = first + stop(sequence) - start(sequence) - 1;
  if (first < 0 || last >= max_blocks_ * kBlockTokens) {
    refuse(name() + " has positions " + text(first) + ".." + text(last) + ", but a block table holds " +
           text(max_blocks_ * kBlockTokens));
  }
  for (int64_t row = start(sequence); row < stop(sequence); ++row) {
    if (positions_[static_cast<size_t>(row)] != first + row - start(sequence)) {
      refuse(name() + " has positions that are not consecutive: row " + text(row) + " is at " +
             text(positions_[static_cast<size_t>(row)]));
    }
    row_sequences_[static_cast<size_t>(row)] = static_cast<int32_t>(sequence);
  }
  const int32_t* blocks = blocks_of(sequence);
  for (int64_t index = 0; index <= last / kBlockTokens; ++index) {
    if (blocks[index] < 0) refuse(name() + " needs block " + text(index) + " of its table, which is " + text(blocks[index]));
    last_block_ = std::max<int64_t>(last_block_, blocks[index]);
  }
  last_position_ = std::max(last_position_, last);
}

}  // namespace manylora

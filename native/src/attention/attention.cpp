// How attention is divided over the threads. Nothing here changes a bit of the result: a partition's state is the same whoever
// computes it, and partitions are always merged in ascending order.
#include "manylora/attention.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "manylora/runtime.h"
#include "manylora/shape.h"

namespace manylora {
namespace {

constexpr int64_t kPartialFloats = int64_t{4} << 20;   // scratch for partitions computed apart: 16 MiB at most

// Consecutive rows of one sequence, and the number of the first task among all tasks.
struct Tile {
  int64_t sequence, first_row, rows;
  int64_t heads_per_task;  // K/V heads
  int64_t partitions;
  int64_t first_task, first_partial;
};

int64_t divide_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

// Rows of a tile of at most `vectors` query vectors; many are a multiple of 16, which suits every vector length.
int64_t rows_of_tile(int64_t vectors, int64_t group, int64_t head_dim) {
  const int64_t rows = std::max<int64_t>(1, std::min(vectors, kTileElements / head_dim) / group);
  return rows > 16 ? rows / 16 * 16 : rows;
}

class Attend {
 public:
  Attend(Runtime& runtime, const Batch& batch, const Matrix& q, const KvCache& kv, int64_t layer, Matrix& out)
      : runtime_(runtime), kernels_(runtime.kernels().attention), batch_(batch), q_(q), kv_(kv), layer_(layer), out_(out),
        group_(q.columns() / kv.head_dim() / kv.kv_heads()),
        rows_per_tile_(rows_of_tile(kernels_.tile_vectors, group_, kv.head_dim())) {}

  void run() {
    choose();
    const int64_t tile_bytes = batch_.rows() * static_cast<int64_t>(sizeof(Tile));
    const int64_t partial_bytes = apart_ ? partials_ * partial_floats() * static_cast<int64_t>(sizeof(float)) : 0;
    std::byte* scratch = runtime_.scratch(static_cast<size_t>(divide_up(tile_bytes, 64) * 64 + partial_bytes));
    partial_data_ = reinterpret_cast<float*>(scratch + divide_up(tile_bytes, 64) * 64);
    const int64_t tasks = fill(reinterpret_cast<Tile*>(scratch));
    if (!apart_) {
      runtime_.workers().run(tasks, [&](int64_t task) { whole(task); });
      return;
    }
    runtime_.workers().run(tasks, [&](int64_t task) { partition(task); });
    const int64_t heads = kv_.kv_heads();
    runtime_.workers().run(static_cast<int64_t>(tiles_.size()) * heads, [&](int64_t i) { join(tiles_[i / heads], i % heads); });
  }

 private:
  // Counts tasks, and decides whether heads and partitions are computed apart because there are too few tasks for the threads.
  void choose() {
    int64_t tasks = 0;
    for (int64_t sequence = 0; sequence < batch_.sequences(); ++sequence) {
      for (int64_t row = batch_.start(sequence); row < batch_.stop(sequence); row += rows_per_tile_) {
        const Tile tile = tile_at(sequence, row);
        tasks += divide_up(kv_.kv_heads(), tile.heads_per_task);
        partials_ += tile.partitions * kv_.kv_heads();
      }
    }
    const int64_t threads = runtime_.workers().threads();
    apart_ = threads > 1 && tasks < 4 * threads && partials_ * partial_floats() <= kPartialFloats;
  }

  // A single row takes many K/V heads at once: those of a block are adjacent in memory. Several rows share the K and V of one.
  Tile tile_at(int64_t sequence, int64_t row) const {
    const int64_t rows = std::min(rows_per_tile_, batch_.stop(sequence) - row);
    const int64_t most = std::min(kTileVectors / group_, kTileElements / (group_ * kv_.head_dim()));
    return {sequence, row, rows, rows == 1 ? std::min(most, kv_.kv_heads()) : 1,
            divide_up(int64_t{batch_.positions()[row]} + rows, kPartitionTokens), 0, 0};
  }

  // The tiles, those with the longest context of a sequence first. Returns the number of tasks.
  int64_t fill(Tile* tiles) {
    int64_t count = 0, tasks = 0, partials = 0;
    for (int64_t sequence = 0; sequence < batch_.sequences(); ++sequence) {
      const int64_t start = batch_.start(sequence);
      for (int64_t i = divide_up(batch_.stop(sequence) - start, rows_per_tile_) - 1; i >= 0; --i) {
        Tile& tile = tiles[count++] = tile_at(sequence, start + i * rows_per_tile_);
        tile.first_task = tasks;
        tile.first_partial = partials;
        partials += tile.partitions * kv_.kv_heads();
        tasks += apart_ ? tile.partitions * kv_.kv_heads() : divide_up(kv_.kv_heads(), tile.heads_per_task);
      }
    }
    tiles_ = {tiles, static_cast<size_t>(count)};
    return tasks;
  }

  const Tile& tile_of(int64_t task) const {
    const auto after = std::upper_bound(tiles_.begin(), tiles_.end(), task,
                                        [](int64_t number, const Tile& tile) { return number < tile.first_task; });
    return *(after - 1);
  }

  AttentionTile job(const Tile& tile, int64_t head, int64_t heads) const {
    const int64_t dim = kv_.head_dim();
    return {q_.bf16s() + tile.first_row * q_.stride() + head * group_ * dim, q_.stride(), tile.rows,
            batch_.positions()[tile.first_row], heads, group_, dim, kv_.layer(layer_) + head * kv_.head_elements(),
            kv_.block_elements(), batch_.blocks_of(tile.sequence), 1.0f / std::sqrt(static_cast<float>(dim))};
  }

  void finish(const Tile& tile, int64_t head, const AttentionTile& work, const AttentionState& state) const {
    bf16* y = out_.bf16s() + tile.first_row * out_.stride() + head * group_ * kv_.head_dim();
    kernels_.finish(work, state, y, out_.stride());
  }

  // All partitions of a tile, some K/V heads.
  void whole(int64_t task) const {
    const Tile& tile = tile_of(task);
    const int64_t head = (task - tile.first_task) * tile.heads_per_task;
    const AttentionTile work = job(tile, head, std::min(tile.heads_per_task, kv_.kv_heads() - head));
    alignas(64) float memory[2][2 * kTileVectors + kTileElements];
    const AttentionState merged = state_in(memory[0]), part = state_in(memory[1]);
    kernels_.attend(work, 0, merged);
    for (int64_t partition = 1; partition < tile.partitions; ++partition) {
      kernels_.attend(work, partition * kPartitionTokens, part);
      kernels_.merge(work, partition * kPartitionTokens, part, merged);
    }
    finish(tile, head, work, merged);
  }

  // One partition of a tile, one K/V head.
  void partition(int64_t task) const {
    const Tile& tile = tile_of(task);
    const int64_t head = (task - tile.first_task) / tile.partitions, partition = (task - tile.first_task) % tile.partitions;
    kernels_.attend(job(tile, head, 1), partition * kPartitionTokens, partial(tile, head, partition));
  }

  void join(const Tile& tile, int64_t head) const {
    const AttentionTile work = job(tile, head, 1);
    const AttentionState merged = partial(tile, head, 0);
    for (int64_t partition = 1; partition < tile.partitions; ++partition) {
      kernels_.merge(work, partition * kPartitionTokens, partial(tile, head, partition), merged);
    }
    finish(tile, head, work, merged);
  }

  // A state of one K/V head and a tile's rows, padded to whole cache lines: threads write them side by side.
  int64_t partial_vectors() const { return divide_up(rows_per_tile_ * group_, 16) * 16; }
  int64_t partial_floats() const { return partial_vectors() * (2 + kv_.head_dim()); }

  AttentionState partial(const Tile& tile, int64_t head, int64_t partition) const {
    float* at = partial_data_ + (tile.first_partial + head * tile.partitions + partition) * partial_floats();
    return {at, at + partial_vectors(), at + 2 * partial_vectors()};
  }

  static AttentionState state_in(float* memory) { return {memory, memory + kTileVectors, memory + 2 * kTileVectors}; }

  Runtime& runtime_;
  const AttentionKernels& kernels_;
  const Batch& batch_;
  const Matrix& q_;
  const KvCache& kv_;
  const int64_t layer_;
  Matrix& out_;
  const int64_t group_;
  const int64_t rows_per_tile_;
  bool apart_ = false;
  int64_t partials_ = 0;
  float* partial_data_ = nullptr;
  std::span<const Tile> tiles_;
};

}  // namespace

void attention(Runtime& runtime, const Batch& batch, const Matrix& q, const KvCache& kv, int64_t layer, Matrix& out) {
  const Timed timed(runtime.times(), Part::attention);
  kv.check_use(batch, layer);
  const int64_t heads = q.columns() / kv.head_dim();
  if (q.columns() % kv.head_dim() != 0 || heads % kv.kv_heads() != 0 || heads / kv.kv_heads() > kMaxGroupHeads) {
    throw std::invalid_argument("q has " + std::to_string(q.columns()) + " columns, but needs 1 to 16 heads of " +
                                std::to_string(kv.head_dim()) + " for each of " + std::to_string(kv.kv_heads()) + " K/V heads");
  }
  check_matrix(q, "q", Dtype::bfloat16, batch.rows(), q.columns());
  check_matrix(out, "out", Dtype::bfloat16, batch.rows(), q.columns());
  if (batch.rows() > 0) Attend(runtime, batch, q, kv, layer, out).run();
}

}  // namespace manylora

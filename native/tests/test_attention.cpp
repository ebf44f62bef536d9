// The attention kernels themselves: a query vector's state does not depend on the tile it is computed in.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "check.h"
#include "manylora/attention.h"
#include "manylora/dispatch.h"

using namespace manylora;

namespace {

struct States {
  std::vector<float> maximum, sum, output;
  States(int64_t vectors, int64_t head_dim)
      : maximum(static_cast<size_t>(vectors), NAN), sum(maximum), output(static_cast<size_t>(vectors * head_dim), NAN) {}
  AttentionState view(int64_t vector, int64_t head_dim) {
    return {maximum.data() + vector, sum.data() + vector, output.data() + vector * head_dim};
  }
};

std::vector<bf16> random_bf16(size_t count) {
  std::mt19937 generator{7};
  std::vector<bf16> values(count);
  for (bf16& value : values) value = to_bf16(static_cast<float>(generator() % 4001) / 1000.0f - 2.0f);
  return values;
}

bool same(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}

// Rows [0, rows) of one K/V head in one tile, and each row in a tile of its own, over the partition at `first_token`.
void test_rows_of_a_tile(const AttentionKernels& kernels, int64_t rows, int64_t group, int64_t head_dim, int64_t first_token) {
  const int64_t first_position = first_token + 500, blocks = (first_position + rows) / kBlockTokens + 1;
  const std::vector<bf16> q = random_bf16(static_cast<size_t>(rows * group * head_dim));
  const std::vector<bf16> kv = random_bf16(static_cast<size_t>(blocks * 2 * kBlockTokens * head_dim));
  std::vector<int32_t> table;
  for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>(blocks - 1 - i));
  AttentionTile tile{q.data(), group * head_dim, rows, first_position, 1, group, head_dim, kv.data(),
                     2 * kBlockTokens * head_dim, table.data(), 0.2f};
  States together(tile.vectors(), head_dim), alone(tile.vectors(), head_dim);
  kernels.attend(tile, first_token, together.view(0, head_dim));
  for (int64_t row = 0; row < rows; ++row) {
    AttentionTile single = tile;
    single.q += row * tile.q_stride;
    single.rows = 1;
    single.first_position += row;
    kernels.attend(single, first_token, alone.view(row * group, head_dim));
  }
  CHECK(same(together.maximum.data(), alone.maximum.data(), tile.vectors()));
  CHECK(same(together.sum.data(), alone.sum.data(), tile.vectors()));
  CHECK(same(together.output.data(), alone.output.data(), tile.vectors() * head_dim));
  for (float value : together.output) CHECK(std::isfinite(value));
}

// One row's K/V heads in one tile, and each in a tile of its own.
void test_heads_of_a_tile(const AttentionKernels& kernels, int64_t heads, int64_t group, int64_t head_dim) {
  const int64_t position = 77, blocks = 5, head_elements = 2 * kBlockTokens * head_dim;
  const std::vector<bf16> q = random_bf16(static_cast<size_t>(heads * group * head_dim));
  const std::vector<bf16> kv = random_bf16(static_cast<size_t>(blocks * heads * head_elements));
  const std::vector<int32_t> table{3, 0, 4, 1, 2};
  const AttentionTile tile{q.data(), heads * group * head_dim, 1, position, heads, group, head_dim, kv.data(),
                           heads * head_elements, table.data(), 0.1f};
  States together(tile.vectors(), head_dim), alone(tile.vectors(), head_dim);
  kernels.attend(tile, 0, together.view(0, head_dim));
  for (int64_t head = 0; head < heads; ++head) {
    AttentionTile single = tile;
    single.q += head * group * head_dim;
    single.kv += head * head_elements;
    single.kv_heads = 1;
    kernels.attend(single, 0, alone.view(head * group, head_dim));
  }
  CHECK(same(together.sum.data(), alone.sum.data(), tile.vectors()));
  CHECK(same(together.output.data(), alone.output.data(), tile.vectors() * head_dim));
}

// Rows that see nothing of a partition keep whatever is in their state.
void test_rows_before_a_partition(const AttentionKernels& kernels) {
  const int64_t head_dim = 16, rows = 4, first_position = kPartitionTokens - 2;
  const std::vector<bf16> q = random_bf16(static_cast<size_t>(rows * head_dim));
  const std::vector<bf16> kv = random_bf16(static_cast<size_t>(33 * 2 * kBlockTokens * head_dim));
  std::vector<int32_t> table;
  for (int32_t i = 0; i < 33; ++i) table.push_back(i);
  const AttentionTile tile{q.data(), head_dim, rows, first_position, 1, 1, head_dim, kv.data(), 2 * kBlockTokens * head_dim,
                           table.data(), 0.25f};
  States part(rows, head_dim);
  kernels.attend(tile, kPartitionTokens, part.view(0, head_dim));
  CHECK(std::isnan(part.maximum[0]) && std::isnan(part.maximum[1]) && std::isnan(part.output[0]) && std::isnan(part.sum[1]));
  CHECK(std::isfinite(part.maximum[2]) && std::isfinite(part.sum[3]) && std::isfinite(part.output[2 * head_dim]));
}

}  // namespace

int main() {
  for (Capability capability : available_capabilities()) {
    const AttentionKernels kernels = kernels_for(capability).attention;
    for (const int64_t head_dim : {16, 48, 64, 80, 128, 256}) {
      for (const int64_t group : {1, 3, 7, 16}) {
        test_rows_of_a_tile(kernels, 32 / group, group, head_dim, 0);
        test_rows_of_a_tile(kernels, 32 / group, group, head_dim, kPartitionTokens);
        test_heads_of_a_tile(kernels, 64 / group < 5 ? 64 / group : 5, group, head_dim <= 80 ? head_dim : 80);
      }
    }
    test_rows_before_a_partition(kernels);
  }
  return 0;
}

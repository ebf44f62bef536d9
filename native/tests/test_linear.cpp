// Linear layers without Python: every capability against the specification, and guard bytes around what kernels read and write.
// The broad tests are tests/kernels/test_linear.py; this one runs under sanitizers too (make sanitize).
#include <cmath>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "manylora/linear.h"
#include "manylora/runtime.h"

using namespace manylora;

namespace {

std::mt19937 generator{7};

bf16 draw() { return to_bf16(static_cast<float>(static_cast<int>(generator() % 2001) - 1000) / 500.0f); }

std::vector<bf16> draw(int64_t count) {
  std::vector<bf16> values(static_cast<size_t>(count));
  for (bf16& value : values) value = draw();
  return values;
}

struct Case {
  int64_t rows, depth, columns, rank;
  Quantization quantization = Quantization::none;
};

// One part, one adapter on the middle rows. Heap vectors are exactly as long as the contract says: a sanitizer sees a longer
// read.
std::vector<float> product(const Case& c, const std::string& capability, int threads, bool accumulate) {
  generator.seed(static_cast<uint32_t>(c.rows * 131 + c.depth * 17 + c.columns * 3 + c.rank));
  Runtime runtime(threads, capability);
  const std::vector<bf16> w = draw(c.columns * c.depth), a = draw(c.rank * c.depth), b = draw(c.columns * c.rank);
  const Linear weight(runtime, {{w.data(), c.columns, nullptr}}, c.depth, c.quantization);
  const int64_t a_bytes = lora_a_bytes(c.rank, c.depth);
  Memory arena(static_cast<size_t>(a_bytes + lora_b_bytes(c.rank, c.columns, weight.width())));
  pack_lora_a(a.data(), c.rank, c.depth, reinterpret_cast<bf16*>(arena.data()));
  pack_lora_b(b.data(), c.columns, c.rank, weight.width(), reinterpret_cast<bf16*>(arena.data() + a_bytes));
  Adapter adapter(arena);
  adapter.set(0, 0, {c.rank, 0.25f, 0, a_bytes, -1, -1});
  Segments segments(1);
  segments.reset(c.rows);
  if (c.rows > 2) segments.add(1, c.rows - 1, adapter);
  Matrix x(c.rows, c.depth, Dtype::bfloat16), y(c.rows, c.columns, Dtype::float32);
  for (int64_t i = 0; i < c.rows * x.stride(); ++i) x.bf16s()[i] = i % x.stride() < c.depth ? draw() : 0x7fc0;
  for (int64_t i = 0; i < c.rows * y.stride(); ++i) y.floats()[i] = accumulate && i % y.stride() < c.columns ? 1.0f : NAN;
  linear(runtime, c.rows, segments, x, weight, 0, y, accumulate);
  std::vector<float> out;
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t column = 0; column < y.stride(); ++column) {
      const float value = y.floats()[row * y.stride() + column];
      CHECK(std::isnan(value) == (column >= c.columns));
      if (column < c.columns) out.push_back(value);
    }
  }
  return out;
}

// fp32 sums of up to depth + rank terms of magnitude 4, and one bf16 rounding of up to rank terms, each at most 2 * 4 * depth
// / 4.
float tolerance(const Case& c) {
  const float terms = static_cast<float>(c.depth + c.rank), low_rank = 2.0f * 0.25f * 4.0f * static_cast<float>(c.depth * c.rank);
  return terms * 0x1p-24f * (4.0f * static_cast<float>(c.depth) + low_rank) + low_rank * 0x1p-7f;
}

void compare(const Case& c) {
  for (const bool accumulate : {false, true}) {
    const std::vector<float> specified = product(c, "scalar", 1, accumulate);
    for (Capability capability : available_capabilities()) {
      const std::vector<float> alone = product(c, name_of(capability), 1, accumulate);
      const std::vector<float> shared = product(c, name_of(capability), 3, accumulate);
      CHECK(alone == shared);
      for (size_t i = 0; i < alone.size(); ++i) CHECK(std::fabs(alone[i] - specified[i]) <= tolerance(c));
      if (capability == Capability::avx2) CHECK(alone == specified);
      if (c.quantization == Quantization::none) continue;
      for (int64_t column = 0; column < c.columns; ++column) {  // rows of no adapter: exact sums
        CHECK(alone[static_cast<size_t>(column)] == specified[static_cast<size_t>(column)]);
        const auto last = static_cast<size_t>((c.rows - 1) * c.columns + column);
        CHECK(alone[last] == specified[last]);
      }
    }
  }
}

void refuse() {
  Runtime runtime(1, "scalar");
  const std::vector<bf16> w = draw(64);
  const Linear weight(runtime, {{w.data(), 8, nullptr}}, 8);
  const Matrix x(2, 9, Dtype::bfloat16);
  Matrix y(2, 8, Dtype::float32);
  bool refused = false;
  try {
    linear(runtime, 2, Segments(0), x, weight, -1, y, false);
  } catch (const std::invalid_argument&) {
    refused = true;
  }
  CHECK(refused);
}

}  // namespace

int main() {
  for (const Case& c : {Case{1, 1, 1, 1},
                        {3, 7, 33, 5},
                        {8, 64, 48, 16},
                        {9, 65, 70, 3},
                        {13, 128, 96, 8},
                        {17, 130, 64, 65},
                        {67, 257, 49, 2}}) {
    compare(c);
    compare({c.rows, c.depth, c.columns, c.rank, Quantization::int8});
  }
  refuse();
  return 0;
}

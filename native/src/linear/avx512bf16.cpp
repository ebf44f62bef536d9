// AVX-512 BF16: vdpbf16ps on pairs of depths.
#include "avx512bf16.h"

#include "int8_avx512.h"

namespace manylora {
namespace {

// Pairs of arithmetic between two fetches: bursts where one row leaves little arithmetic, an even trickle otherwise (measured).
constexpr int64_t fetch_pairs(int64_t rows) { return rows == 1 ? 8 : 2; }

template <int R, int V>
void base_rows(const bf16* x, int64_t stride, const bf16* w, int64_t depth, float* tile, Ahead& ahead) {
  __m512 acc[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) acc[r][v] = _mm512_setzero_ps();
  }
  constexpr int64_t kPairs = fetch_pairs(R);
  for (int64_t k = 0; k < depth / 2; k += kPairs) {
    fetch(ahead);
    multiply<R, V>(acc, x + 2 * k, stride, w + 2 * k * kLanes * V, depth / 2 - k < kPairs ? depth / 2 - k : kPairs);
  }
  if (depth % 2 != 0) {  // the last pair has one depth: what lies behind x is not read
    alignas(4) bf16 last[R][2];
    for (int r = 0; r < R; ++r) last[r][0] = x[r * stride + depth - 1], last[r][1] = 0;
    multiply<R, V>(acc, last[0], 2, w + (depth - 1) * kLanes * V, 1);
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) _mm512_store_ps(tile + (r * V + v) * kLanes, acc[r][v]);
  }
}

using BaseKernel = void (*)(const bf16* x, int64_t stride, const bf16* w, int64_t depth, float* tile, Ahead& ahead);

template <int V, int... R>
BaseKernel base_kernel(int64_t rows, std::integer_sequence<int, R...>) {
  static constexpr BaseKernel kernels[] = {base_rows<R + 1, V>...};
  return kernels[rows - 1];
}

struct Avx512 : Avx512Epilogue {
  static int64_t tile_rows(int64_t width) { return most_rows(width); }

  static void base(const PanelJob& job, const Tile& tile, Ahead& ahead) {
    const int64_t fetches = (job.depth / 2 + fetch_pairs(tile.rows) - 1) / fetch_pairs(tile.rows);
    ahead.rate = fetches == 0 ? 0 : (ahead.lines + fetches - 1) / fetches;
    const BaseKernel kernel = job.width == 32   ? base_kernel<2>(tile.rows, std::make_integer_sequence<int, kRows<2>>())
                              : job.width == 48 ? base_kernel<3>(tile.rows, std::make_integer_sequence<int, kRows<3>>())
                                                : base_kernel<4>(tile.rows, std::make_integer_sequence<int, kRows<4>>());
    kernel(job.x + tile.start * job.x_stride, job.x_stride, job.panel, job.depth, tile.values, ahead);
  }
};

struct Int8Avx512 : Avx512 {
  static void base(const PanelJob& job, const Tile& tile, Ahead& ahead) { int8_tile_avx512(job, tile, ahead); }
};

}  // namespace

const LinearKernels linear_avx512bf16{run_panel<Avx512>, run_panel<Int8Avx512>};

}  // namespace manylora

// AVX-512 BF16: vdpbf16ps on pairs of depths.
#include <immintrin.h>

#include <utility>

#include "manylora/linear.h"
#include "tiles.h"

namespace manylora {
namespace {

constexpr int kLanes = 16;

inline __m512bh as_bf16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }

inline __m512i broadcast_pair(const bf16* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof bits);
  return _mm512_set1_epi32(bits);
}

// Pairs of arithmetic between two fetches: bursts where one row leaves little arithmetic, an even trickle otherwise (measured).
constexpr int64_t fetch_pairs(int64_t rows) { return rows == 1 ? 8 : 2; }

// Fetches the next few lines. Inlined, because a call would spill the accumulators.
[[gnu::always_inline]] inline void fetch(Ahead& ahead) {
  for (int64_t budget = ahead.rate; budget > 0 && ahead.first < ahead.count;) {
    Region& region = ahead.regions[ahead.first];
    const int64_t lines = budget < region.lines ? budget : region.lines;
    for (int64_t i = 0; i < lines; ++i) _mm_prefetch(region.at + 64 * i, _MM_HINT_T1);
    region.at += 64 * lines;
    region.lines -= lines;
    budget -= lines;
    if (region.lines == 0) ++ahead.first;
  }
}

// acc[R][V] continued over `pairs` pairs: x [R rows] at `stride`, w [pairs][16 V][2].
template <int R, int V>
[[gnu::always_inline]] inline void multiply(__m512 (&acc)[R][V], const bf16* x, int64_t stride, const bf16* w, int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k, w += 2 * kLanes * V) {
    __m512bh column[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) column[v] = as_bf16(_mm512_load_si512(w + 2 * kLanes * v));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const __m512bh row = as_bf16(broadcast_pair(x + r * stride + 2 * k));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], row, column[v]);
    }
  }
}

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

template <int R, int V>
void expand_rows(const bf16* s, int64_t stride, const bf16* b, int64_t pairs, float* tile) {
  __m512 acc[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) acc[r][v] = _mm512_load_ps(tile + (r * V + v) * kLanes);
  }
  multiply<R, V>(acc, s, stride, b, pairs);
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) _mm512_store_ps(tile + (r * V + v) * kLanes, acc[r][v]);
  }
}

using BaseKernel = void (*)(const bf16* x, int64_t stride, const bf16* w, int64_t depth, float* tile, Ahead& ahead);
using RowKernel = void (*)(const bf16* rows, int64_t stride, const bf16* columns, int64_t depth, float* tile);

template <int V>
constexpr int kRows = V == 2   ? 12
                      : V == 3 ? 8
                               : 6;  // 24 accumulators, and registers left for the columns

template <int V>
struct Width {
  template <int... R>
  static BaseKernel base(int64_t rows, std::integer_sequence<int, R...>) {
    static constexpr BaseKernel kernels[] = {base_rows<R + 1, V>...};
    return kernels[rows - 1];
  }
  template <int... R>
  static RowKernel expand(int64_t rows, std::integer_sequence<int, R...>) {
    static constexpr RowKernel kernels[] = {expand_rows<R + 1, V>...};
    return kernels[rows - 1];
  }
  static BaseKernel base(int64_t rows) { return base(rows, std::make_integer_sequence<int, kRows<V>>()); }
  static RowKernel expand(int64_t rows) { return expand(rows, std::make_integer_sequence<int, kRows<V>>()); }
};

struct Avx512 {
  static int64_t tile_rows(int64_t width) { return width == 32 ? kRows<2> : width == 48 ? kRows<3> : kRows<4>; }

  static void base(const PanelJob& job, const Tile& tile, Ahead& ahead) {
    const int64_t fetches = (job.depth / 2 + fetch_pairs(tile.rows) - 1) / fetch_pairs(tile.rows);
    ahead.rate = fetches == 0 ? 0 : (ahead.lines + fetches - 1) / fetches;
    const BaseKernel kernel = job.width == 32   ? Width<2>::base(tile.rows)
                              : job.width == 48 ? Width<3>::base(tile.rows)
                                                : Width<4>::base(tile.rows);
    kernel(job.x + tile.start * job.x_stride, job.x_stride, job.panel, job.depth, tile.values, ahead);
  }

  static void expand(const bf16* s, int64_t s_stride, int64_t rows, const bf16* b, int64_t pairs, int64_t width, float* values) {
    const RowKernel kernel = width == 32 ? Width<2>::expand(rows) : width == 48 ? Width<3>::expand(rows) : Width<4>::expand(rows);
    kernel(s, s_stride, b, pairs, values);
  }

  static void finish(const float* values, int64_t columns, const float* scale, const float* bias, bool accumulate, float* y) {
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t left = columns - c;
      const __mmask16 mask = left >= kLanes ? 0xffff : static_cast<__mmask16>((1 << left) - 1);
      __m512 sum = _mm512_load_ps(values + c);
      if (scale != nullptr) sum = _mm512_mul_ps(sum, _mm512_maskz_loadu_ps(mask, scale + c));
      if (bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, bias + c));
      if (accumulate) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y + c), sum);
      _mm512_mask_storeu_ps(y + c, mask, sum);
    }
  }
};

}  // namespace

const LinearKernels linear_avx512bf16{run_panel<Avx512>};

}  // namespace manylora

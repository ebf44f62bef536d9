// Attention with both products on tiles: up to 16 query vectors times 16 tokens of K, or times 16 dimensions of V.
#include "../vector/amx.h"
#include "../vector/avx512bf16.h"
#include "manylora/attention.h"
#include "vector.h"

namespace manylora {
namespace {

constexpr int64_t kDimensions = 16;  // of one tile of V

class AmxAttention : Attention<Avx512Bf16> {
 public:
  using Attention::Attention;

  void run(int64_t first_token) {
    const int64_t rows = tile.rows, group = tile.group, first_row = tile.first_row_at(first_token);
    begin(first_row);
    const int64_t stop = std::min(first_token + kPartitionTokens, tile.first_position + rows);
    for (int64_t start = first_token; start < stop; start += kGroupTokens) {
      const int64_t first = tile.first_row_at(start);  // rows from here on see some of the group
      for (int64_t head = 0; head < tile.kv_heads; ++head) {
        const int64_t seen = tile.first_position + first - start + 1;  // tokens of the group, by the first of these rows
        Group tokens = group_at(head, start, stop);
        tokens.visible = std::min(kGroupTokens, tile.first_position + rows - start);
        hide_unwritten(tokens);
        if (seen >= tokens.visible || finite(tokens)) {
          step(tokens, (head * rows + first) * group, (rows - first) * group, seen);
          continue;
        }
        // What a row does not see has the weight zero, and zero times infinity is no zero: each row by itself.
        for (int64_t row = first; row < rows; ++row) {
          tokens = group_at(head, start, stop);
          tokens.visible = std::min(kGroupTokens, tile.first_position + row - start + 1);
          hide_unwritten(tokens);
          step(tokens, (head * rows + row) * group, group, tokens.visible);
        }
      }
    }
    end(first_row);
    _tile_release();  // or every switch of threads would save the tiles
  }

 private:
  // `count` query vectors, of whose rows the first sees `visible` tokens of the group and every next one more.
  void step(const Group& tokens, int64_t first, int64_t count, int64_t visible) {
    const int64_t chunks = (count + kTileRows - 1) / kTileRows, most = (count + chunks - 1) / chunks;
    for (int64_t done = 0; done < count; done += most) score(tokens, first + done, std::min(most, count - done));
    for (int64_t i = 0; i < count; ++i) weigh(first + i, std::min(kGroupTokens, visible + i / tile.group));
    for (int64_t i = first; i < first + count; ++i) rescale(i);
    for (int64_t done = 0; done < count; done += most) value(tokens, first + done, std::min(most, count - done));
  }

  // Tiles 0 and 1 hold scores, or outputs, 2 query vectors, 3 keys, 4 and 5 weights of one block each, 6 and 7 values.
  void configure(int64_t vectors) {
    if (configured_ == vectors) return;
    configured_ = vectors;
    TileShapes shapes;
    for (int i = 0; i < 3; ++i) shapes.set(i, vectors, 64);
    shapes.set(3, kTileRows, 64);
    for (int i = 4; i < 6; ++i) shapes.set(i, vectors, 2 * kBlockTokens);
    for (int i = 6; i < 8; ++i) shapes.set(i, kBlockTokens / 2, 64);
    load_shapes(shapes);
  }

  void score(const Group& tokens, int64_t first, int64_t vectors) {
    configure(vectors);
    settle(q);
    const bf16* query = q + first * tile.head_dim;
    float* to = scores + first * kGroupTokens;
    const bool both = tokens.visible > kBlockTokens;
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t i = 0; i < tile.head_dim; i += kTileDepth) {
      _tile_loadd(2, query + i, tile.head_dim * 2);
      _tile_loadd(3, tokens.keys[0] + i * kBlockTokens, 64);
      _tile_dpbf16ps(0, 2, 3);
      if (!both) continue;
      _tile_loadd(3, tokens.keys[1] + i * kBlockTokens, 64);
      _tile_dpbf16ps(1, 2, 3);
    }
    _tile_stored(0, to, kGroupTokens * 4);
    _tile_stored(1, to + kBlockTokens, kGroupTokens * 4);
  }

  void rescale(int64_t index) {
    if (corrections[index] == 1.0f) return;
    const __m512 correction = _mm512_set1_ps(corrections[index]);
    float* output = state.output + index * tile.head_dim;
    for (int64_t i = 0; i < tile.head_dim; i += kLanes) {
      _mm512_storeu_ps(output + i, _mm512_mul_ps(_mm512_loadu_ps(output + i), correction));
    }
  }

  // The output continued by the first block's tokens, then the second's.
  void value(const Group& tokens, int64_t first, int64_t vectors) {
    configure(vectors);
    settle(weights);
    const int64_t pitch = tile.head_dim * 4;  // bytes of a row of output, and of a pair of tokens
    const bool both = tokens.visible > kBlockTokens;
    _tile_loadd(4, weights + first * kGroupTokens, kGroupTokens * 2);
    _tile_loadd(5, weights + first * kGroupTokens + kBlockTokens, kGroupTokens * 2);
    for (int64_t i = 0; i < tile.head_dim; i += 2 * kDimensions) {
      float* output = state.output + first * tile.head_dim + i;
      _tile_loadd(0, output, pitch);
      _tile_loadd(6, tokens.values[0] + 2 * i, pitch);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(1, output + kDimensions, pitch);
      _tile_loadd(7, tokens.values[0] + 2 * (i + kDimensions), pitch);
      _tile_dpbf16ps(1, 4, 7);
      if (both) {
        _tile_loadd(6, tokens.values[1] + 2 * i, pitch);
        _tile_dpbf16ps(0, 5, 6);
        _tile_loadd(7, tokens.values[1] + 2 * (i + kDimensions), pitch);
        _tile_dpbf16ps(1, 5, 7);
      }
      _tile_stored(0, output, pitch);
      _tile_stored(1, output + kDimensions, pitch);
    }
  }

  // Whether no visible value is infinite or NaN.
  bool finite(const Group& tokens) const {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    __mmask32 found = 0;
    for (int64_t block = 0; block < 2 && block * kBlockTokens < tokens.visible; ++block) {
      for (int64_t i = 0; i < kBlockTokens * tile.head_dim; i += 32) {
        const __m512i values = _mm512_loadu_si512(tokens.values[block] + i);
        found |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(values, exponent), exponent);
      }
    }
    return found == 0;
  }

  // Replaces values of which tokens that no row sees are a part by a copy with zeros for them. Tokens that some row sees have
  // been written, and have the weight zero for the rows that do not.
  void hide_unwritten(Group& tokens) {
    for (int64_t block = 0; block < 2; ++block) {
      const int64_t seen = std::min(kBlockTokens, tokens.visible - block * kBlockTokens), width = tile.head_dim * 2;
      if (seen <= 0 || seen == kBlockTokens) continue;
      bf16* to = written_[block];
      for (int64_t pair = 0; pair < kBlockTokens / 2; ++pair, to += width) {
        const auto mask = _mm512_set1_epi32(2 * pair + 1 < seen ? -1 : 2 * pair < seen ? 0xffff : 0);
        const bf16* from = tokens.values[block] + pair * width;
        for (int64_t i = 0; i < width; i += 32) {
          _mm512_store_si512(to + i, _mm512_and_si512(_mm512_loadu_si512(from + i), mask));
        }
      }
      tokens.values[block] = written_[block];
    }
  }

  int64_t configured_ = 0;
  alignas(64) bf16 written_[2][kBlockTokens * kMaxHeadDim];
};

void attend_amx(const AttentionTile& tile, int64_t first_token, const AttentionState& state) {
  if (tile.head_dim % kTileDepth == 0) {
    AmxAttention(tile, state).run(first_token);
  } else {
    attend<Avx512Bf16>(tile, first_token, state);
  }
}

}  // namespace

const AttentionKernels attention_amx = {kTileVectors, attend_amx, merge<Avx512Bf16>, finish<Avx512Bf16>};

}  // namespace manylora

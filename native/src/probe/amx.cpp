#include "../vector/amx.h"
#include "manylora/probe.h"
#include "read512.h"

namespace manylora {
namespace {

constexpr int64_t kOperations = 2 * 6 * 16 * 16;  // of six tile products, for each value that an element of the sum takes in

void configure() {
  TileShapes shapes;
  for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTileRows, 64);
  load_shapes(shapes);  // and every tile is zero
}

int64_t bf16_products(int64_t rounds) {
  configure();
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return kOperations * 32 * rounds;
}

int64_t int8_products(int64_t rounds) {
  configure();
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbssd(0, 6, 7);
    _tile_dpbssd(1, 6, 7);
    _tile_dpbssd(2, 6, 7);
    _tile_dpbssd(3, 6, 7);
    _tile_dpbssd(4, 6, 7);
    _tile_dpbssd(5, 6, 7);
  }
  _tile_release();
  return kOperations * 64 * rounds;
}

}  // namespace

const ProbeKernels probe_amx{read512, bf16_products, int8_products};

}  // namespace manylora

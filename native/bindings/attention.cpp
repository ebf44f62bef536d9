#include "manylora/attention.h"

#include <nanobind/ndarray.h>

#include "bindings.h"
#include "manylora/rotary.h"
#include "manylora/runtime.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace manylora {
namespace {

template <int kDimensions>
using View = nb::ndarray<nb::numpy, int32_t, nb::ndim<kDimensions>>;

using Get = int32_t* (Batch::*)();
using Length = int64_t (Batch::*)() const;

// A numpy view of one of the batch's vectors.
template <Get get, Length length, int kMore = 0>
View<1> vector_of(nb::handle self) {
  Batch& batch = nb::cast<Batch&>(self);
  const size_t shape[] = {static_cast<size_t>((batch.*length)() + kMore)};
  return View<1>((batch.*get)(), 1, shape, self);
}

View<2> block_tables_of(nb::handle self) {
  Batch& batch = nb::cast<Batch&>(self);
  const size_t shape[] = {static_cast<size_t>(batch.max_slots()), static_cast<size_t>(batch.max_blocks())};
  return View<2>(batch.block_tables(), 2, shape, self);
}

void bind_batch(nb::module_& m) {
  using B = Batch;
  nb::class_<Batch>(m, "Batch", "What one step computes. Write the arrays (make the views once), then begin().")
      .def(nb::init<int64_t, int64_t, int64_t, int64_t>(), "max_rows"_a, "max_sequences"_a, "max_slots"_a, "max_blocks"_a)
      .def_prop_ro("token_ids", &vector_of<Get(&B::token_ids), &B::max_rows>, "int32 [max_rows]")
      .def_prop_ro("positions", &vector_of<Get(&B::positions), &B::max_rows>, "int32 [max_rows]")
      .def_prop_ro("sequence_starts", &vector_of<Get(&B::sequence_starts), &B::max_sequences, 1>,
                   "int32 [max_sequences + 1], row offsets")
      .def_prop_ro("sequence_slots", &vector_of<Get(&B::sequence_slots), &B::max_sequences>,
                   "int32 [max_sequences], rows of block_tables")
      .def_prop_ro("block_tables", &block_tables_of, "int32 [max_slots, max_blocks]")
      .def_prop_ro("gather_rows", &vector_of<Get(&B::gather_rows), &B::max_rows>, "int32 [max_rows]")
      .def("begin", &Batch::begin, "rows"_a, "sequences"_a,
           "Declares how much of the arrays is valid; ValueError names what is wrong with them.");
}

}  // namespace

void bind_attention(nb::module_& m) {
  bind_batch(m);
  m.def("kv_block_bytes", &kv_block_bytes, "layers"_a, "kv_heads"_a, "head_dim"_a, "Bytes of 16 tokens of K and V, all layers.");
  nb::class_<KvCache>(m, "KvCache", "K and V in blocks of 16 tokens; block b lies at byte b * block_bytes of the arena.")
      .def(nb::init<const Memory&, int64_t, int64_t, int64_t>(), "arena"_a, "layers"_a, "kv_heads"_a, "head_dim"_a,
           nb::keep_alive<1, 2>())
      .def_prop_ro("blocks", &KvCache::blocks, "Whole blocks that the arena holds.")
      .def_prop_ro("block_bytes", &KvCache::block_bytes);
  m.def("rotary",
        [](Runtime& runtime, const Batch& batch, const Matrix& qkv, const Matrix& cos, const Matrix& sin, const KvCache& kv,
           int64_t layer, Matrix& q, int64_t heads, const Matrix* q_norm, const Matrix* k_norm, float eps) {
          rotary(runtime, batch, qkv, cos, sin, kv, layer, q, heads, {q_norm, k_norm, eps});
        },
        "runtime"_a, "batch"_a, "qkv"_a, "cos"_a, "sin"_a, "kv"_a, "layer"_a, "q"_a, "heads"_a, "q_norm"_a.none(),
        "k_norm"_a.none(), "eps"_a,
        "Rotates (after the optional norm of each head) q into `q`, bfloat16 [rows, heads * head_dim], and k into the cache, "
        "with v.");
  m.def("attention", &attention, "runtime"_a, "batch"_a, "q"_a, "kv"_a, "layer"_a, "out"_a,
        "Causal attention over the cache, scaled by 1 / sqrt(head_dim); q and out bfloat16 [rows, heads * head_dim].");
}

}  // namespace manylora

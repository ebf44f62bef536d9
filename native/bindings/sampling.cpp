#include "manylora/sampling.h"

#include <nanobind/ndarray.h>

#include <type_traits>
#include <utility>

#include "bindings.h"
#include "manylora/runtime.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace manylora {
namespace {

template <auto member>
using Element = typename std::remove_reference_t<decltype(std::declval<Sampler&>().*member)>::value_type;

// A numpy view of one of the sampler's vectors, one element per row.
template <auto member>
nb::ndarray<nb::numpy, Element<member>, nb::ndim<1>> rows_of(nb::handle self) {
  Sampler& sampler = nb::cast<Sampler&>(self);
  const size_t shape[] = {static_cast<size_t>(sampler.max_rows)};
  return {(sampler.*member).data(), 1, shape, self};
}

// The same of one with max_top elements per row.
template <auto member>
nb::ndarray<nb::numpy, Element<member>, nb::ndim<2>> tops_of(nb::handle self) {
  Sampler& sampler = nb::cast<Sampler&>(self);
  const size_t shape[] = {static_cast<size_t>(sampler.max_rows), static_cast<size_t>(sampler.max_top)};
  return {(sampler.*member).data(), 2, shape, self};
}

}  // namespace

void bind_sampling(nb::module_& m) {
  nb::class_<Sampler>(m, "Sampler", "What is asked of each row of logits, and what was found. Make the views once.")
      .def(nb::init<int64_t, int64_t>(), "max_rows"_a, "max_top"_a)
      .def_prop_ro("temperature", &rows_of<&Sampler::temperature>, "float32 [max_rows]; 0: the most likely token")
      .def_prop_ro("top_k", &rows_of<&Sampler::top_k>, "int32 [max_rows]; 0 or less: off")
      .def_prop_ro("top_p", &rows_of<&Sampler::top_p>, "float32 [max_rows], above 0; 1: off")
      .def_prop_ro("min_p", &rows_of<&Sampler::min_p>, "float32 [max_rows], of the most likely token's probability; 0: off")
      .def_prop_ro("uniform", &rows_of<&Sampler::uniform>, "float64 [max_rows], in [0, 1)")
      .def_prop_ro("top_count", &rows_of<&Sampler::top_count>, "int32 [max_rows], at most max_top")
      .def_prop_ro("token", &rows_of<&Sampler::token>, "int32 [max_rows], written by sample")
      .def_prop_ro("normalizer", &rows_of<&Sampler::normalizer>, "float32 [max_rows], log of the sum of e^logit, by logprobs")
      .def_prop_ro("top_tokens", &tops_of<&Sampler::top_tokens>, "int32 [max_rows, max_top], most likely first, by logprobs")
      .def_prop_ro("top_logprobs", &tops_of<&Sampler::top_logprobs>, "float32 [max_rows, max_top], by logprobs");
  m.def("logprobs", &logprobs, "runtime"_a, "rows"_a, "logits"_a, "sampler"_a,
        "The normalizer of every row of raw logits, and its top_count most likely tokens.");
  m.def("sample", &sample, "runtime"_a, "rows"_a, "logits"_a, "sampler"_a,
        "One token per row: temperature, then min_p, top_k, top_p, then `uniform` in the cumulative distribution by token id.");
}

}  // namespace manylora

#include "manylora/sampling.h"

#include <nanobind/ndarray.h>

#include "bindings.h"
#include "manylora/runtime.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace manylora {
namespace {

template <auto member>
nb::object row_view(nb::handle self) {
  Sampler& sampler = nb::cast<Sampler&>(self);
  auto& values = sampler.*member;
  using T = typename std::remove_reference_t<decltype(values)>::value_type;
  const size_t shape[] = {static_cast<size_t>(sampler.max_rows)};
  return nb::cast(nb::ndarray<nb::numpy, T>(values.data(), 1, shape, self), nb::rv_policy::reference);
}

template <auto member>
nb::object top_view(nb::handle self) {
  Sampler& sampler = nb::cast<Sampler&>(self);
  auto& values = sampler.*member;
  using T = typename std::remove_reference_t<decltype(values)>::value_type;
  const size_t shape[] = {static_cast<size_t>(sampler.max_rows), static_cast<size_t>(sampler.max_top)};
  return nb::cast(nb::ndarray<nb::numpy, T>(values.data(), 2, shape, self), nb::rv_policy::reference);
}

}  // namespace

void bind_sampling(nb::module_& m) {
  nb::class_<Sampler>(m, "Sampler", "What is asked of each row of logits, and what was found. Make the views once.")
      .def(nb::init<int64_t, int64_t>(), "max_rows"_a, "max_top"_a)
      .def_prop_ro("temperature", &row_view<&Sampler::temperature>, "float32 [max_rows]; 0: the most likely token")
      .def_prop_ro("top_k", &row_view<&Sampler::top_k>, "int32 [max_rows]; 0 or less: off")
      .def_prop_ro("top_p", &row_view<&Sampler::top_p>, "float32 [max_rows], above 0; 1: off")
      .def_prop_ro("min_p", &row_view<&Sampler::min_p>, "float32 [max_rows], of the most likely token's probability; 0: off")
      .def_prop_ro("uniform", &row_view<&Sampler::uniform>, "float64 [max_rows], in [0, 1)")
      .def_prop_ro("top_count", &row_view<&Sampler::top_count>, "int32 [max_rows], at most max_top")
      .def_prop_ro("token", &row_view<&Sampler::token>, "int32 [max_rows], written by sample")
      .def_prop_ro("normalizer", &row_view<&Sampler::normalizer>, "float32 [max_rows], log of the sum of e^logit, by logprobs")
      .def_prop_ro("top_tokens", &top_view<&Sampler::top_tokens>, "int32 [max_rows, max_top], most likely first, by logprobs")
      .def_prop_ro("top_logprobs", &top_view<&Sampler::top_logprobs>, "float32 [max_rows, max_top], by logprobs");
  m.def("logprobs", &logprobs, "runtime"_a, "rows"_a, "logits"_a, "sampler"_a,
        "The normalizer of every row of raw logits, and its top_count most likely tokens.");
  m.def("sample", &sample, "runtime"_a, "rows"_a, "logits"_a, "sampler"_a,
        "One token per row: temperature, then min_p, top_k, top_p, then `uniform` in the cumulative distribution by token id.");
}

}  // namespace manylora

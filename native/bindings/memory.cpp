#include "manylora/memory.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <iterator>

#include "bindings.h"
#include "manylora/runtime.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace manylora {
namespace {

Dtype parse_dtype(const std::string& name) {
  if (name == "float32") return Dtype::float32;
  if (name == "bfloat16") return Dtype::bfloat16;
  throw nb::value_error(("dtype '" + name + "' is neither 'float32' nor 'bfloat16'").c_str());
}

nb::dict times_of(Runtime& runtime) {
  static constexpr const char* kNames[] = {"base", "lora", "attention", "elementwise"};  // in the order of Part
  static_assert(std::size(kNames) == kTimedParts);
  const auto spent = runtime.times().take();
  nb::dict times;
  for (size_t part = 0; part < spent.size(); ++part) times[kNames[part]] = spent[part];
  return times;
}

// A view of the matrix; bfloat16 appears as uint16, its storage.
nb::ndarray<nb::numpy> view_of(nb::handle self) {
  const Matrix& matrix = nb::cast<const Matrix&>(self);
  const size_t shape[] = {static_cast<size_t>(matrix.rows()), static_cast<size_t>(matrix.columns())};
  const int64_t strides[] = {matrix.stride(), 1};
  const nb::dlpack::dtype dtype = matrix.dtype() == Dtype::float32 ? nb::dtype<float>() : nb::dtype<uint16_t>();
  return nb::ndarray<nb::numpy>(matrix.data(), 2, shape, self, strides, dtype);
}

}  // namespace

void bind_memory(nb::module_& m) {
  nb::class_<Runtime>(m, "Runtime",
                      "Threads, kernels and scratch: the first argument of every operation. One operation at a time.")
      .def(
          "__init__",
          [](Runtime* self, int threads, const std::string& capability) {
            require(threads >= 1 && threads <= 1024, "threads must be 1 to 1024, not " + std::to_string(threads));
            new (self) Runtime(threads, capability);
          },
          "threads"_a, "capability"_a)
      .def_prop_ro("threads", [](Runtime& runtime) { return runtime.workers().threads(); })
      .def_prop_ro("capability", [](const Runtime& runtime) { return name_of(runtime.capability()); })
      .def("measure", [](Runtime& runtime) { runtime.times().turn_on(runtime.workers().threads()); },
           "Begins to measure what operations take.")
      .def("take_times", &times_of, nb::sig("def take_times(self) -> dict[str, int]"),
           "Nanoseconds since the last call, by part: base, lora, attention, elementwise. All zero before `measure`.");

  nb::class_<Matrix>(m, "Matrix", "Activations, rows by columns, of 'float32' or 'bfloat16'.")
      .def(
          "__init__",
          [](Matrix* self, int64_t rows, int64_t columns, const std::string& dtype) {
            require(rows >= 1 && columns >= 1, "a matrix needs at least one row and one column");
            new (self) Matrix(rows, columns, parse_dtype(dtype));
          },
          "rows"_a, "columns"_a, "dtype"_a)
      .def_prop_ro("array", &view_of, nb::for_getter(nb::sig("def array(self) -> numpy.typing.NDArray[typing.Any]")),
                   "A writable numpy view [rows, columns]; bfloat16 as uint16.");

  m.def("release_freed_memory", &release_freed_memory,
        "Gives freed memory that the C library keeps back to the system: worth it after much that was short-lived.");

  nb::class_<Memory>(m, "Arena", "Zeroed memory in huge pages where the system grants them.")
      .def(
          "__init__",
          [](Memory* self, int64_t bytes) {
            require(bytes >= 1, "an arena needs at least one byte");
            new (self) Memory(static_cast<size_t>(bytes));
          },
          "bytes"_a)
      .def_prop_ro("bytes", &Memory::bytes)
      .def("populate", [](const Memory& memory, int64_t offset, int64_t bytes) {
        require(offset >= 0 && bytes >= 0 && static_cast<size_t>(offset) + static_cast<size_t>(bytes) <= memory.bytes(),
                "the range is not within the arena");
        memory.populate(static_cast<size_t>(offset), static_cast<size_t>(bytes));
      }, "offset"_a, "bytes"_a, "Makes a range real now, so that its first use does not wait for the system's pages.")
      .def_prop_ro(
          "array",
          [](nb::handle self) {
            const Memory& memory = nb::cast<const Memory&>(self);
            const size_t shape[] = {memory.bytes()};
            return nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(memory.data(), 1, shape, self);
          },
          "A writable numpy view of the bytes.");
}

}  // namespace manylora

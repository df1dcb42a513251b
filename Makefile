PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help install demo test check docs clean

help:
	@echo "make install   set up .venv (once)"
	@echo "make demo      train the embedded model; results in runs/demo"
	@echo "make test      run the tests"
	@echo "make check     what CI runs: ruff, mypy, docs, tests"
	@echo "make docs      write docs/commands.md anew"
	@echo "make clean     remove .venv and caches"
	@echo "PYTHON=...     the Python to set up with, 3.11 or later (default: python3)"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' here; give one with: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: prepo needs Python 3.11 or later, '$(PYTHON)' is $$($(PYTHON) --version 2>&1); give one with: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "make: '$(PYTHON)' makes no virtual environment; install its venv module (python3-venv on Debian)" >&2; exit 1; }
	@echo "setting up .venv, once; torch and its kin take some minutes"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/prepo train --output-dir runs/demo --overwrite

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p strategies
	$(BIN)/mypy -p prepo_cli
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m pytest

docs: install
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache

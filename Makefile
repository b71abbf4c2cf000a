# The two commands: `make bench` measures this machine and reports, `make test` proves the suite. `make help` lists the rest.

PYTHON ?= python3
TORCH ?= $(shell grep '^torch==' constraints.txt)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# DeepSpeed's launchers and its compiled ops look for ninja on the PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup bench test test-fast test-hosts check gpu-check clean

help:
	@echo "make bench      measure this machine with the quick suite, write results/quick/report/index.html"
	@echo "make test       the whole test suite of one host (23 minutes on two cores)"
	@echo "make test-fast  its quick part (about 2 minutes)"
	@echo "make test-hosts the tests on several hosts, made on this machine (at most 9 minutes); as root, with iproute2, openssh-server, pdsh"
	@echo "make setup      make the virtual environment $(VENV) alone; TORCH=\"torch==2.10.0\" chooses another torch"
	@echo "make check      ruff and mypy --strict"
	@echo "make gpu-check  on a machine with GPUs, with PYTHON's own packages: does everything work on them?"
	@echo "make clean      remove $(VENV) and caches; results stay"

setup: $(STAMP)

# Installed again when the wanted torch, the pins or the packaging change; otherwise nothing here needs a network.
ifneq ($(TORCH),$(shell cat $(VENV)/.torch 2>/dev/null))
.PHONY: $(STAMP)
endif

$(STAMP): constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON); install Python 3.10 to 3.13, or name one: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { echo "make: $$($(PYTHON) --version) found, 3.10 to 3.13 expected; name another: make setup PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 2; }
	@command -v g++ >/dev/null || { echo "make: no g++, with which DeepSpeed compiles its ops; on Debian: apt-get install g++" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt "$(TORCH)"
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable ".[dev]"
	@echo "$(TORCH)" > $(VENV)/.torch
	@touch $(STAMP)

bench: setup
	$(BIN)/scalebench run quick

# Most launches wait more than they compute, so two files are tested side by side; what measures time comes after them.
BESIDE := -n 2 --dist loadgroup --no-loadscope-reorder

test: setup
	$(BIN)/python -m pytest $(BESIDE) -m "not alone and not hosts"
	$(BIN)/python -m pytest -m "alone and not hosts"

test-fast: setup
	$(BIN)/python -m pytest $(BESIDE) -m "not slow and not alone and not hosts"

test-hosts: setup
	$(BIN)/python -m pytest -m hosts -rs

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gpu-check:
	$(PYTHON) -m bench.gpu_check

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

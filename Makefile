# What a person types. Every target installs what it needs into .venv, once for each change of the pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PINS := pyproject.toml constraints.txt
FLOWS := $(VENV)/.installed-flows
DEV := $(VENV)/.installed-dev
BENCH := $(VENV)/.installed-bench
PYTEST := $(BIN)/python -P -m pytest
TEST_ARGS ?=
DEMO_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo dev test test-full lint format bench clean

help:  ## say what the targets do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(FLOWS)  ## install, then run the whole thing on the text that this machine already has
	$(BIN)/muster demo $(DEMO_ARGS)

dev: $(DEV)  ## install everything a contributor needs

test: $(DEV)  ## every test but the minutes-long ones and those for a GPU
	$(PYTEST) -m "not slow and not gpu" $(TEST_ARGS)

test-full: $(DEV)  ## the minutes-long tests too
	$(PYTEST) -m "not gpu" $(TEST_ARGS)

lint: $(DEV)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH)  ## measure against peers; writes benchmarks/results/
	$(BIN)/python benchmarks/run.py

clean:  ## remove what the targets made: .venv, caches, the state folder
	rm -rf $(VENV) .muster build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "Muster needs Python 3.11, 3.12 or 3.13, and there is no '$(PYTHON)' here;\
	 name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "Muster needs Python\
	 3.11, 3.12 or 3.13, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1); name another with: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' can't make virtual environments;\
	 on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(FLOWS): $(BIN)/python $(PINS)
	$(PIP) install --quiet -c constraints.txt -e '.[flows]'
	@touch $@

$(DEV): $(BIN)/python $(PINS)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $(FLOWS) $@

$(BENCH): $(BIN)/python $(PINS)
	$(PIP) install --quiet -c constraints.txt -e '.[bench]'
	@touch $(FLOWS) $(DEV) $@

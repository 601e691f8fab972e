# From a fresh machine with Python 3.11+, git and make: `make demo` or `make test` is all there is to type.
PYTHON ?= python3
DOMAIN ?= shape
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-slow test-long lint bench clean help
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --editable '.[dev]'
	@touch $@

demo: $(READY)  ## the main job, from synthetic data to a report: solids; DOMAIN=protein backbones; DOMAIN=forecast series; DOMAIN=turbulence flows
	$(BIN)/penstock run $(DOMAIN) --preset demo

test: $(READY) lint  ## lint, type check, layer contracts, and the default tests
	$(BIN)/pytest

test-slow: $(READY)  ## the tests that take minutes: overfit, kills, clusters of several nodes
	$(BIN)/pytest -m "slow and not long"

test-long: $(READY)  ## further cases of those, half an hour: before a release
	$(BIN)/pytest -m long

lint: $(READY)  ## ruff, mypy and the layer contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## side-by-side measurements; prints ratios
	$(BIN)/python -m benchmarks

clean:  ## remove what the build and the tests left (not your runs)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

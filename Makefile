# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

# Tests start hundreds of processes: byte code is compiled once, also where the environment asks for none to be kept.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: train quick test test-full lint format bench clean
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dashboard,minilm,peft,report,sweeps,tensorboard,test]'
	touch $@

train: $(BIN)/.installed  ## train the main example: a mixture of eight Bradley-Terry heads on planted text
	$(BIN)/python -m micro_lit.train +experiment=mixture_k8

quick: $(BIN)/.installed  ## run the tests that are quick, one after another: for every edit
	$(BIN)/python -m pytest -n 0 -m "not slow and not full"

test: $(BIN)/.installed  ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not full"

test-full: $(BIN)/.installed  ## run all tests, also those that repeat much, on examples that differ each time
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --hypothesis-profile=random

lint: $(BIN)/.installed  ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.installed  ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BIN)/.installed  ## measure speed and memory, as ratios within one run
	$(BIN)/python -m benchmarks

clean:  ## remove the virtual environment and caches; runs and features stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis

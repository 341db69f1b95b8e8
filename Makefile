# make heads      train the three heads with three seeds on the embedded digits, and print the answer
# make test       run the tests
# make dashboard  serve the results, on http://127.0.0.1:5000 or with PORT=5001 elsewhere
# make lint       ruff and mypy
#
# Each sets up .venv first if need be. PYTHON chooses the interpreter, 3.11 or newer.

PYTHON ?= python3
BIN := .venv/bin
PORT ?= 5000

.PHONY: heads test dashboard lint clean

heads: .venv/.runtime
	$(BIN)/python -m pipeline.train study=heads

test: .venv/.development
	$(BIN)/python -m pytest

lint: .venv/.development
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

dashboard: .venv/.runtime
	$(BIN)/python -m pipeline.dashboard port=$(PORT)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; choose one with make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.runtime: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/.development: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch .venv/.runtime $@

clean:
	rm -rf .venv outputs

# make heads      train the three heads on the embedded digits, and print the answer
# make quick      run the tests that take under a minute together
# make test       run the tests
# make dashboard  serve the results, on http://127.0.0.1:5000 or with PORT=5001 elsewhere
# make lint       ruff and mypy
# make audit      look up the pinned packages in the database of known vulnerabilities
#
# Each sets up .venv first if need be. PYTHON chooses the interpreter, 3.11 or newer.

PYTHON ?= python3
BIN := .venv/bin
PORT ?= 5000
QUICK := not long and not slow and not real_data and not cluster and not program

.PHONY: heads quick test dashboard lint audit clean

heads: .venv/.runtime
	$(BIN)/python -m pipeline.train study=heads

quick: .venv/.development
	$(BIN)/python -m pytest -m "$(QUICK)" --numprocesses 2 --dist loadfile

test: .venv/.development
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/.development
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

audit: .venv/audit/bin/pip-audit
	$< --strict --no-deps --disable-pip --requirement constraints.txt

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

# In an environment of its own: it needs a good many packages, and the program none of them.
.venv/audit/bin/pip-audit: | .venv/bin/python
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit==2.10.1

clean:
	rm -rf .venv outputs

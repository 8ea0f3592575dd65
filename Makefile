# make demo   the whole road on handwritten digits, in a virtual environment of its own
# make test   lint, types, architecture, tests
# make exhaustive   further cases of what the tests show already: every fault of a board, more random examples
PYTHON ?= python3
# More than two cores' worth: a third of the time of the tests is waiting, for ssh and for timers.
WORKERS ?= 3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := edgeres tests tools

.PHONY: demo test exhaustive lint clean

demo: $(VENV)/.all
	$(BIN)/edgeres run demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

exhaustive: $(VENV)/.dev
	OMP_NUM_THREADS=1 EDGERES_EXAMPLES=search $(BIN)/python -m pytest -n $(WORKERS) -m "exhaustive or hypothesis"

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/size.py

# The stamps make a second call skip the installation until pyproject.toml changes.
$(VENV)/.all $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

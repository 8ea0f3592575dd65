# make demo   the whole road on handwritten digits, in a virtual environment of its own
# make test   lint, types, architecture, tests
# make tenth K=3   the fourth tenth of these
# make exhaustive   further cases of what the tests show already: every fault of a board, more random examples
PYTHON ?= python3
# Twice two cores' worth: nearly half of the time of the tests is waiting, for ssh and for timers.
WORKERS ?= 4
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := edgeres tests tools
# Each of the tests' processes begins with the next tests in order, so that what a file prepares is prepared once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
export PYTHONDONTWRITEBYTECODE :=  # hundreds of processes import the same files

.PHONY: demo test tenth exhaustive lint clean

demo: $(VENV)/.all
	$(BIN)/edgeres run demo

# lint runs beside the tests; what it says comes after them.
test: $(VENV)/.dev
	@$(MAKE_COMMAND) --no-print-directory lint > $(VENV)/lint.txt 2>&1 & lint=$$!; \
	$(PYTEST); tests=$$?; \
	wait $$lint; linted=$$?; cat $(VENV)/lint.txt; \
	test $$tests = 0 -a $$linted = 0

# A tenth of the exhaustive tests, the K-th: make tenth K=3
tenth: $(VENV)/.dev
	$(PYTEST) -m exhaustive --tenth $(K)

exhaustive: $(VENV)/.dev
	EDGERES_EXAMPLES=search $(PYTEST) -m "exhaustive or hypothesis"

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

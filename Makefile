# Two commands do everything on a fresh machine: `make demo` and `make test`. Each sets up .venv the first time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/experiments
	$(BIN)/python -m experiments.digits_sweep

test: .venv/experiments .venv/test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv results

# A file of each extra's name says that it is installed for the pyproject.toml of now.
.venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[$*]'
	touch $@

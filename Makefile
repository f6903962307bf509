# `make demo`, `make test` and `make docs` do everything on a fresh machine. Each sets up .venv the first time.
# Another Python has its own: make test BIN=.venv-newest/bin PYTHON=python3.13
PYTHON ?= python3
BIN := .venv/bin
VENV = $(patsubst %/bin,%,$(BIN))

.PHONY: demo test tpu lint docs clean

demo: $(VENV)/experiments
	$(BIN)/python -m experiments.digits_sweep

test: $(VENV)/experiments $(VENV)/test
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(TESTS)

# The sweep's programs compiled for TPUs, which takes none; to be run with an environment of its own, as BIN=.venv-tpu/bin.
tpu: $(VENV)/tpu $(VENV)/test
	JAX_PLATFORMS=cpu FUNCNET_NEEDS_LIBTPU=1 $(BIN)/python -m pytest -q tests/sweeps/test_tpu.py

# The guide, whose code runs as it is built: docs/_build/html/index.html.
docs: $(VENV)/experiments $(VENV)/bench $(VENV)/cluster $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going -q -E -j 2 $(OPTIONS) -d docs/_build/doctrees docs docs/_build/html

lint: $(VENV)/experiments $(VENV)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-newest .venv-tpu .pytest_cache docs/_build results

# A file of each extra's name says that it is installed for the pyproject.toml of now.
$(VENV)/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[$*]'
	touch $@

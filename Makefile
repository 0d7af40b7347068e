# `make demo` and `make test` set everything up by themselves, in their own virtual environment.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BIN = $(abspath $(VENV))/bin
READY = $(VENV)/ready

.PHONY: demo test test-slow lint clean

demo: $(READY)
	PATH="$(BIN):$$PATH" bash examples/demo.sh "$(DEMO)"

# Two workers share the cores: threads of their own in each would only wait for one another.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " \
		+ sys.version.split()[0] + "; name one with PYTHON=...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache

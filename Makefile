# Two commands do everything on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# What an installation is made of; its Python is used in place. A git pull that touches one of these installs anew.
CORE = $(wildcard src/embedserve/embedding/backbones/native/core/*)
PACKAGE = pyproject.toml setup.py $(CORE)

.PHONY: run test check fuzz clean
# Of fuzzing, for each target.
SECONDS ?= 60

run: $(VENV)/.run  ## install, start the server on the bundled model, print a key and a curl line that works
	$(BIN)/embedserve serve

test: $(VENV)/.test check  ## lint, types, import contracts, tests
	$(BIN)/python -m pytest

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p embedserve
	$(BIN)/lint-imports

fuzz: $(VENV)/.test  ## the native core under sanitizers and every parser, SECONDS each (docs/testing.md)
	$(BIN)/python -m fuzz --seconds $(SECONDS)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(PACKAGE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.test: $(PACKAGE) constraints.txt tests/compat/node/package.json | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,eval]'
	command -v npm >/dev/null && npm install --silent --no-package-lock --prefix tests/compat/node || echo "no npm: the Node tests will be skipped"
	touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build dist tests/compat/node/node_modules

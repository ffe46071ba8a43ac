# make bench    set up (.venv, pinned) and run the main job: which model to ship on TARGET?
#               (TARGET=rpi4 HOST=pi@raspberrypi.local for a board that is reached by ssh)
# make test     set up and run all checks and tests
# make help     the rest

TARGET ?= local-cpu
RECIPE ?= p32
HOST   ?=
PLAN   ?= nightly
WHY    ?= first baseline
ARGS   ?=
VENV   ?= .venv
PYTHON ?= python3
WORKERS ?= 2

at := --target '$(TARGET)' $(if $(HOST),--host '$(HOST)')
bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := bench
.PHONY: bench plan report nightly baseline emulated-board test test-fast bench-kernels check format clean help

bench: $(VENV)/.user ## run RECIPE on TARGET (ARGS go to hwbench bench: ARGS="--fresh")
	@$(bin)/hwbench bench --recipe $(RECIPE) $(at) $(ARGS)

plan: $(VENV)/.user ## show what bench would do, and how long it would take
	@$(bin)/hwbench plan --recipe $(RECIPE) $(at) $(ARGS)

report: $(VENV)/.user ## write the report of the last run again
	@$(bin)/hwbench report reports/latest

nightly: $(VENV)/.user ## hold today's models against the pinned ones (PLAN in recipes/, default nightly)
	@$(bin)/hwbench nightly $(PLAN) $(ARGS)

baseline: $(VENV)/.user ## pin a baseline for RECIPE on TARGET where there is none yet (WHY="...")
	@$(bin)/hwbench baseline set --if-none --recipe $(RECIPE) --target $(TARGET) --why "$(WHY)" $(ARGS)

emulated-board: $(VENV)/.user ## build the board of TARGET=rpi4-emulated (Debian or Ubuntu; 400 MB, cached)
	@$(bin)/hwbench board emulate

test: check ## all checks and tests (a browser test needs Debian's chromium and chromium-driver)
	@$(bin)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.dev ## the tests that take no more than seconds
	@$(bin)/python -m pytest -m "not slow" tests/unit tests/contracts

bench-kernels: $(VENV)/.dev ## our sparse kernels beside ONNX Runtime (ARGS="--networks resnet18 --patterns 90")
	@OMP_NUM_THREADS=1 $(bin)/python -m hwbench.instruments.kernel_bench $(ARGS)

check: $(VENV)/.dev ## lint, types, layers
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(bin)/lint-imports

format: $(VENV)/.dev ## format the code
	@$(bin)/ruff format .
	@$(bin)/ruff check --fix .

clean: ## remove the environment, the cache of finished work, and generated reports
	rm -rf $(VENV) .hwbench build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find reports -mindepth 1 -maxdepth 1 ! -name README.md ! -name history ! -name baselines -exec rm -rf {} +

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

# A stamp file each, so that a second call costs nothing and a changed pin installs again.
$(VENV)/.user: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hwbench needs Python 3.11 or newer; found: $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 2; }
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing hwbench into $(VENV) (once; two minutes, 2 GB)"
	@$(pip) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	@$(pip) -e ".[dev]"
	@touch $@

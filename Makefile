PYTHON ?= python3
MODEL_DIR ?= runs/ring
WORKERS ?= 2
# One more than the cores of a small machine: some tests wait for processes of their own. A process takes up to 4 GB.
TEST_PROCESSES ?= 3
SLOW_PROCESSES ?= 2
FLAGFILE ?= flags/experiments/ring.flags
NEXT ?= tensorflow keras
QUICK ?=

BIN := .venv/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help train test report test-slow test-slow-compressors test-slow-models test-slow-keras test-slow-jobs test-slow-weather test-next lint format tensorboard clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  %-18s %s\n", $$1, $$2 }'

train: .venv/.train-stamp ## Train FLAGFILE on WORKERS processes into MODEL_DIR; a second call resumes
	$(BIN)/python -m trainers.launch --num_workers=$(WORKERS) -- --flagfile=$(FLAGFILE) --model_dir=$(MODEL_DIR)

# A file's tests share what its fixtures have compiled; the order of files is that of tests/conftest.py.
BY_FILE := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: lint ## Lint, then all tests but the slow ones
	$(BIN)/python -m pytest -q -m "not slow" $(BY_FILE) tests

# XLA keeps what it has compiled for as long as a process lives, so the tests run in groups: two processes had 20 GiB after
# 170 of the 460 tests of the last three groups.
COMPILING := tests/compressors tests/distributed/test_topologies.py
MODELS := tests/gan tests/test_error_feedback.py
KERAS := tests/keras tests/evaluation tests/oracles
# Jobs that are killed, frozen or cut off and must end in time. They run one after another: beside the jobs of another test
# they would be slow for a reason that is not theirs.
WEATHER := tests/weather tests/distributed/test_lost_peer.py tests/distributed/test_start.py \
	tests/distributed/test_worker_errors.py tests/training/test_clusters.py tests/training/test_launcher_signals.py
REST := tests $(COMPILING:%=--ignore=%) $(MODELS:%=--ignore=%) $(KERAS:%=--ignore=%) $(WEATHER:%=--ignore=%)
SLOW_ALONE := $(BIN)/python -m pytest -q -m slow --durations=10
SLOW := $(SLOW_ALONE) -n $(SLOW_PROCESSES)

test-slow: test-slow-compressors test-slow-models test-slow-keras test-slow-jobs test-slow-weather ## The slow tests alone, or a group of them: test-slow-compressors, -models, -keras, -jobs, -weather

test-slow-compressors: .venv/.test-stamp
	$(SLOW) --dist worksteal $(COMPILING)

test-slow-models: .venv/.test-stamp
	$(SLOW) --dist loadfile --no-loadscope-reorder $(MODELS)

test-slow-keras: .venv/.test-stamp
	$(SLOW) --dist loadfile --no-loadscope-reorder $(KERAS)

test-slow-jobs: .venv/.test-stamp
	$(SLOW) --dist loadfile --no-loadscope-reorder $(REST)

test-slow-weather: .venv/.test-stamp
	$(SLOW_ALONE) $(WEATHER)

# What the library reaches of TensorFlow and Keras past their public API; see dqgan_tf/private_tensorflow.py.
ADAPTER_TESTS := tests/test_private_names.py tests/test_tensorflow_texts.py tests/distributed/transport \
	tests/distributed/test_options.py tests/distributed/test_message_board.py tests/distributed/test_pipeline.py \
	tests/distributed/test_exchange.py tests/gan/test_fit.py

test-next: ## Install NEXT (pre-releases too) into .venv-next, print the state of every private name, and test (QUICK=1: all quick tests)
	test -d .venv-next || $(PYTHON) -m venv .venv-next
	.venv-next/bin/python -m pip install -q --pre --upgrade $(NEXT)
	.venv-next/bin/python -m pip install -q pytest pytest-timeout pytest-xdist scipy tensorboard tensorflow-datasets importlib_resources
	-.venv-next/bin/python -m tests.test_private_names
	.venv-next/bin/python -m pytest -q -m "not slow" $(if $(QUICK),$(BY_FILE) tests,$(ADAPTER_TESTS))

# .pre-commit-config.yaml has the same list.
lint: .venv/.test-stamp ## Style, types and the JSON schema of .github/workflows/test.yml; changes no file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/test.yml

format: .venv/.test-stamp ## Style, changing files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Where runs are recorded; `make report` runs none.
SUITES := games mixture fashion_mnist cifar10 speedup time local/games local/mixture local/fashion_mnist local/cifar10

report: .venv/.test-stamp ## Tables and figures of results/, README and docs/evidence.md, from the recorded runs
	$(BIN)/python -m pip install -q -e ".[benchmark]"
	set -e; for suite in $(SUITES); do $(BIN)/python -m trainers.compare --suite=$$suite --report; done
	set -e; for page in README.md docs/evidence.md; do $(BIN)/python -m benchmarks.evidence_tables $$page; done
	set -e; for folder in local speedup; do \
	  $(BIN)/python -m benchmarks.links --report=results/$$folder/links.jsonl > results/$$folder/links.md; done
	$(BIN)/python -m benchmarks.delayed --report=results/local/delayed.jsonl > results/local/delayed.md
	$(BIN)/python -m trainers.benchmark --report=results/exchange/runs.jsonl --figures=results/exchange
	$(BIN)/python -m trainers.compare --results=results/ring --document=docs/images/README.md

tensorboard: .venv/.train-stamp ## Curves of MODEL_DIR at http://localhost:6006
	$(BIN)/tensorboard --logdir=$(MODEL_DIR)

clean: ## Remove caches and build outputs; runs/ and .venv/ stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "$(PYTHON) must be Python 3.11 to 3.13; name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv or no ensurepip: install them (Debian, Ubuntu: the package python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.train-stamp: setup.py | $(BIN)/python
	$(BIN)/python -m pip install -q -e .
	@touch $@

.venv/.test-stamp: setup.py | $(BIN)/python
	$(BIN)/python -m pip install -q -e ".[test]"
	@touch .venv/.train-stamp $@

# What a person types. Every target makes what it needs, or says what to type.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
N ?= 1000
SEED ?= 0
VENV := .venv
PY := $(VENV)/bin/python
export PYTHONPATH := $(CURDIR)/operator:$(CURDIR)/serving-images/agent:$(CURDIR)
CLUSTER_CLI := $(PYTHON) -m tests.e2e.cluster
INSIDE := $(CLUSTER_CLI) exec
TOOLS := tests/tools
STAGE := $(TOOLS)/stage
TEST_IMAGES := $(PYTHON) tests/e2e/images/build
BESIDE := tests/e2e/agent tests/e2e/stand_in
E2E := tests/e2e $(addprefix --ignore ,tests/e2e/cluster tests/e2e/cluster_lifecycle $(BESIDE))
# make unit's tests in three runs: those that compute, those that wait, and whatever else there is.
UNIT_TESTS := $(PY) -m pytest -p no:cacheprovider
# Each begins with half of the tests in their order, and takes over what the other has not come to.
TWO_WORKERS := -n 2 --dist worksteal --durations=15 --durations-min=5
ROOTS := triton onnxruntime torchserve test-tensorflow-serving
UV_COMPILE = $(VENV)/bin/uv pip compile --quiet $(UPGRADE) --generate-hashes --no-header --no-emit-index-url --python-version 3.11
UPGRADE ?= --upgrade

.PHONY: help
help: ## This list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: deps venv ## A real model on a real cluster, from nothing: predictions, a good canary promoted, a bad one taken back
	@$(PY) -m tests.e2e.demo

.PHONY: test
test: deps ## All that decides whether a change is good: unit, crash and e2e tests on a real cluster (root)
	@$(STAGE) --reset
	@$(STAGE) --together test-processes test-control-plane
	@$(STAGE) e2e $(MAKE) e2e
	@$(STAGE) --summary

# What make test runs side by side before the cluster: one half mostly waits, the other computes, at a lower priority.
.PHONY: test-processes test-control-plane
test-processes:
	@$(STAGE) venv $(MAKE) venv
	@$(STAGE) unit $(MAKE) unit
	@$(STAGE) images $(MAKE) test-images
	@$(STAGE) storage $(MAKE) storage
	@$(STAGE) routing $(MAKE) routing
	@$(STAGE) beside $(MAKE) beside
test-control-plane:
	@$(STAGE) binaries $(CLUSTER_CLI) build
	@$(STAGE) crash $(MAKE) crash

.PHONY: test-all
test-all: test lane-crash lane-matrix lane-lifecycle ## make test, and every lane

# What make test leaves out, in parts of at most 60 minutes; tests/lanes.md says at which commit each was green last.
.PHONY: lane-crash lane-matrix lane-lifecycle
lane-crash: deps venv ## Lane: operators that live for two and three writes, in every rollout; make judgement
	@$(TOOLS)/lane crash $(MAKE) crash-stages
lane-matrix: deps venv ## Lane: every case of every server
	@$(TOOLS)/lane matrix $(STAGE) matrix $(MAKE) matrix
lane-lifecycle: deps venv ## Lane: the demo, the cluster's lifecycle, a bench at N=100
	@$(TOOLS)/lane lifecycle $(MAKE) lifecycle-stages
.PHONY: crash-stages lifecycle-stages
crash-stages:
	@$(STAGE) crash-all $(MAKE) crash-all
	@$(STAGE) judgement $(MAKE) judgement
lifecycle-stages:
	@$(STAGE) demo $(MAKE) demo
	@$(STAGE) lifecycle $(MAKE) lifecycle
	@$(STAGE) bench $(MAKE) bench-controller N=100

.PHONY: unit
unit: venv ## Lint, types, layers, unit, golden, transition: some minutes, no cluster, no root
	@$(TOOLS)/side-by-side "lint: $(VENV)/bin/ruff check ." "format: $(VENV)/bin/ruff format --check ." \
	  "layers: $(VENV)/bin/lint-imports" "types: $(VENV)/bin/mypy" \
	  "transition: $(UNIT_TESTS) tests/transition" "agent: $(UNIT_TESTS) -n 2 tests/unit/agent" \
	  "rest: $(UNIT_TESTS) tests/unit tests/golden --ignore=tests/unit/agent"

.PHONY: mutants
mutants: venv ## Small faults put into copies of the tree: a test notices each; MORE=20 SEED=1 draws others beside them
	@$(PY) -m tests.mutation $(if $(MORE),--more $(MORE) --seed $(SEED)) $(if $(ONLY),--only $(ONLY))

.PHONY: slowed
slowed: deps venv ## The agent's tests with random lines slowed: what depends on the moment shows; SEED=1 draws the lines
	@SEED=$(SEED) $(PY) -m pytest -p tests.slowed tests/unit/agent/loop tests/unit/agent/fetching/test_cache.py tests/storage

.PHONY: e2e
e2e: deps venv cluster-up test-images ## End-to-end tests on the cluster (CLUSTER=native, kind or existing)
	@$(INSIDE) $(CURDIR)/$(PY) -m pytest $(TWO_WORKERS) tests/golden/chart $(E2E) -m "not matrix and not alone"
	@$(INSIDE) $(CURDIR)/$(PY) -m pytest $(E2E) -m "alone and not matrix"

.PHONY: matrix
matrix: deps venv cluster-up test-images ## What e2e leaves out: the same cases again on every server
	@$(INSIDE) $(CURDIR)/$(PY) -m pytest $(TWO_WORKERS) $(E2E) -m "matrix and not alone"
	@$(INSIDE) $(CURDIR)/$(PY) -m pytest $(E2E) -m "matrix and alone"

# Where Docker builds the images there are no roots to mount: what needs one is skipped, and says so.
.PHONY: beside
beside: deps venv test-images ## The agent beside each real server, and the stand-in for TensorFlow Serving, as processes
	@$(TEST_IMAGES) with-roots $(ROOTS) -- $(TOOLS)/beside $(PY) -m pytest -n 2 --dist loadfile $(BESIDE)

.PHONY: routing
routing: deps venv ## The router: a real Envoy as a process, its configuration swapped as a kubelet does, under load
	@$(TEST_IMAGES) with-roots router -- $(PY) -m pytest -n 2 --dist loadfile tests/router

.PHONY: storage
storage: deps venv ## Models fetched from a real S3 server, registry and web server on loopback, misbehaving ones too
	@$(PY) -m pytest tests/storage

.PHONY: crash
crash: deps venv ## The operator ended after every single write, against a real API server and etcd
	@$(PY) -m tests.crash

.PHONY: crash-all
crash-all: deps venv ## The same, and lives of two and three writes in turn
	@SLIPWAY_CRASH_ALL=1 $(PY) -m tests.crash -k in_turn

.PHONY: judgement
judgement: deps venv ## Rollouts in trouble that isn't theirs, at every crash point: promotions by reason, rejections (0); 20 minutes
	@$(PY) -m tests.judgement

.PHONY: isolation
isolation: venv ## What archives, links, servers and handlers may try on the agent: attempted, contained, time, memory
	@$(PY) -m tests.isolation

.PHONY: lifecycle
lifecycle: deps venv ## The native cluster's own tests: up, crash, down leaves nothing
	@$(PY) -m pytest tests/e2e/cluster_lifecycle

.PHONY: bench-controller
bench-controller: deps venv ## Speed and size of the operator with N objects (N=1000)
	@$(PY) -m tests.bench.controller -n $(N)

.PHONY: bench-serving
bench-serving: deps venv cluster-up test-images ## What clients notice of updates; ONLY=a|b|c|d and RUNTIME=Triton,… choose
	@$(INSIDE) $(CURDIR)/$(PY) -m tests.bench.serving $(if $(ONLY),--only $(ONLY)) $(if $(RUNTIME),--runtime $(RUNTIME))

.PHONY: bench-rollout
bench-rollout: deps venv cluster-up test-images ## What a rollout costs its clients, and how fast a bad canary is off; ONLY=a|b|c|d|e chooses
	@$(INSIDE) $(CURDIR)/$(PY) -m tests.bench.rollout $(if $(ONLY),--only $(ONLY))

.PHONY: bench-analysis
bench-analysis: venv ## How often a healthy canary is rolled back, and how soon a bad one is, in N rollouts (N=10000)
	@$(PY) -m tests.bench.analysis -n $(if $(filter command line environment,$(origin N)),$(N),10000)

.PHONY: crds
crds: venv ## Write the CRD from the pydantic models
	@$(PY) -m slipway.api.crd

.PHONY: images
images: deps ## Build what is missing of the container images
	@$(PYTHON) serving-images/build build

.PHONY: test-images
test-images: deps ## The same, and the images that only tests need
	@$(TEST_IMAGES) build

.PHONY: cluster-up
cluster-up: deps ## Start the cluster
	@$(CLUSTER_CLI) up

.PHONY: cluster-down
cluster-down: ## Stop the cluster; what makes the next start quick is kept
	@$(CLUSTER_CLI) down

.PHONY: cluster-status
cluster-status: ## What runs, and how to look around
	@$(CLUSTER_CLI) status

.PHONY: clean
clean: ## Stop and forget the cluster, remove the virtual environment and the checks' caches (not the shared cache)
	@$(CLUSTER_CLI) clean
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@echo "kept: binaries and images in $${SLIPWAY_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/slipway} (rm -rf it to start from nothing)"

.PHONY: deps
deps: ## Install the Debian packages that are missing (root), or say what to type
	@$(TOOLS)/install-packages

.PHONY: venv
venv: $(VENV)/.made-of-lock
$(VENV)/.made-of-lock: tests/requirements.lock
	@$(TOOLS)/make-venv $(PYTHON) $(VENV) tests/requirements.lock

.PHONY: lock
lock: $(PY) ## Refresh the locks (UPGRADE= keeps the versions that still fit)
	@$(VENV)/bin/uv --version >/dev/null 2>&1 || $(PY) -m pip install --quiet uv
	@$(UV_COMPILE) --extra dev pyproject.toml -o tests/requirements.lock
	@$(UV_COMPILE) -c tests/requirements.lock pyproject.toml -o operator/requirements.lock
	@$(UV_COMPILE) --no-annotate --universal serving-images/agent/requirements.in -o serving-images/agent/requirements.lock
	@! grep -nE 'https?://|--index-url|--find-links' tests/requirements.lock operator/requirements.lock serving-images/*/requirements.lock
$(PY):
	@$(PYTHON) -m venv $(VENV)

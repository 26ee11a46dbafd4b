# Each target does its own set-up: a virtual environment in .venv with the pinned versions of constraints.txt.
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= rlvo-work
# Two files of tests at a time; each of the two processes has a Ray of its own.
TWO := -n 2 --dist loadfile
PYTHON ?= python3
SCRIPTS := .ci/run mlflow/*.sh ray_cluster/*.sh ray_cluster/*.sbatch

export PYTHONDONTWRITEBYTECODE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup demo test test-slow test-cluster faults lint types docs bench bench-gpu dist audit clean
.DEFAULT_GOAL := setup

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(VENV)/.ready ## the virtual environment (what `make` alone does)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "rlvo needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages (a few minutes the first time) ..."
	$(BIN)/pip install --constraint constraints.txt setuptools wheel
	$(BIN)/pip install --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --constraint constraints.txt --no-build-isolation --editable '.[dev,server]'
	@touch $@

demo: setup ## synthetic cohort -> search -> ensemble -> registered model, in WORKDIR
	$(BIN)/rlvo demo --workdir "$(WORKDIR)"

test: setup ## the quick suite: real Ray, real MLflow
	$(BIN)/python -m pytest $(TWO) -m "not slow and not cluster and not faults"

test-slow: setup ## tests that take longer: whole searches, servers, fresh processes
	$(BIN)/python -m pytest $(TWO) -m "slow and not cluster and not faults"

test-cluster: setup ## tests on real Ray clusters and over ssh; needs sshd, rsync and Postgres
	$(BIN)/python -m pytest tests/clusters -m cluster

faults: setup ## breaks things on purpose, and installs without an index, for minutes; FAULTS=full for more rounds
	FAULTS=$(or $(FAULTS),1) $(BIN)/python -m pytest -m faults

lint: setup ## ruff, bandit, yamllint, hadolint, and shellcheck if it is installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive rlvo docs .ci setup.py
	$(BIN)/yamllint --strict .
	$(BIN)/hadolint --failure-threshold info docker/Dockerfile ray_cluster/Dockerfile
	@if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); else echo "no shellcheck here: scripts not checked"; fi

types: setup ## mypy, strict
	$(BIN)/mypy

docs: setup ## the documentation as a site, which needs no network: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: setup ## measurements, as ratios within one run
	$(BIN)/python -m benchmarks

bench-gpu: setup ## all that a GPU is to show, in 8 minutes; without one it only proves that it runs
	$(BIN)/python -m benchmarks.gpu --json build/bench-gpu.json

dist: setup ## wheel and source distribution in dist/, checked
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist

audit: setup ## known vulnerabilities of the pinned packages; says so if the service does not answer
	$(BIN)/python .ci/audit.py

clean: ## caches and the environment; never a work folder
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

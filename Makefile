# What a user or developer does with this repository. `make` alone lists it.
# make env LOCK=gpu: the environment for NVIDIA GPUs; PYTHON=...: the interpreter to build on.

SHELL := /bin/bash
LOCK ?= cpu
PYTHON ?=
export LOCK PYTHON
# Of the tools in there, torch calls ninja by its name: DeepSpeed's ops for GPUs are compiled when first used.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help env demo test slow lint bench gpu locks clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

env: ## make .venv, or bring it up to date; nothing to do: nothing done
	@cluster/setup.sh

demo: env ## train the demo model end to end and write its report
	.venv/bin/rayse run pipelines/recipes/demo.yaml
	.venv/bin/rayse report

# Most of a test's time is one process that starts; docs/testing.md says what shares a process and why.
PYTEST := .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test: env ## the tests, but for the slow ones
	$(PYTEST) -m "not slow"

slow: env ## the slow tests: kills in every phase, a sweep that is broken off
	$(PYTEST) -m slow

lint: env ## style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright

bench: env ## the benchmarks: goals, and the change from this machine's baseline (SAVE=1: write it)
	.venv/bin/python -m tests.benchmarks $(if $(SAVE),--save)

gpu: ## on a machine with a GPU: training measured and compared with the CPU (PYTHON=python3: its own torch, no env)
	$(if $(PYTHON),$(PYTHON),.venv/bin/python) -m tests.gpu

locks: ## resolve cluster/locks again (UPGRADE=1: to the newest versions)
	cluster/locks/resolve.sh

clean: ## remove caches and build products; .venv and the store stay
	rm -rf .pytest_cache .ruff_cache build dist *.egg-info
	find cluster pipelines serve tests -name __pycache__ -type d -prune -exec rm -rf {} + 2> /dev/null || true

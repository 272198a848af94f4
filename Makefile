# `make` sets up everything itself, in .venv, on a machine that has never seen the project.
# Needed beforehand: Linux and python >= 3.11 with venv (as root on Debian, make installs it).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
CHAOS_KILLS ?= 100
UV_VERSION := 0.13.8
PACKAGES := podman runc catatonit uidmap debootstrap iproute2 e2fsprogs

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE := 1

# Prints an interpreter that works: one that is only a name (a pyenv shim) fails when it is run.
# Debian splits ensurepip from python3, so it is asked for by name.
FIND_PYTHON := find_python() { \
	for candidate in python3.13 python3.12 python3.11 python3.14 python3 /usr/bin/python3; do \
		if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1; then echo "$$candidate"; return; fi; \
	done; return 1; }; \
	need_python() { \
		find_python && return; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			export DEBIAN_FRONTEND=noninteractive; \
			{ apt-get update -q && apt-get install -qy --no-install-recommends python3 python3-venv; } >&2; \
			find_python && return; \
		fi; \
		echo "codex-supervisor needs python >= 3.11 with venv. Install it (Debian and Ubuntu:" \
			"apt-get install python3 python3-venv) and run make again." >&2; \
		return 1; }

.PHONY: help setup demo run test system fmt lint types unit bench chaos lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: $(READY) ## make .venv with everything locked in it

$(READY): requirements.lock pyproject.toml
	@$(FIND_PYTHON); \
	python="$$(need_python)"; \
	echo "setting up $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv --clear $(VENV); \
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock; \
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	touch $@

demo: $(READY) ## a turn, an approval, the audit table, and a supervisor killed in a running turn
	@$(MAKE) system || echo "containers could not be prepared: the demonstration does without" >&2
	$(BIN)/codex-supervisor demo $(ARGS)

run: $(READY) ## start a supervisor here (ARGS="--listen-port 0")
	$(BIN)/codex-supervisor up $(ARGS)

test: system lint types unit ## everything a change has to pass

# What containers need beside Python: asked of Debian by root, else it is said what is missing. The
# agent's image takes a minute from nothing, and is found made the next time.
system: $(READY)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& ! dpkg --status $(PACKAGES) >/dev/null 2>&1; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -q && apt-get install -qy --no-install-recommends $(PACKAGES); \
	fi
	@if [ "$$(id -u)" = 0 ] && command -v podman >/dev/null; then \
		echo "agent image: $$(PATH=$(CURDIR)/$(BIN):$$PATH images/agent/build)"; \
	fi

unit: $(READY) ## the tests alone (ARGS="tests/unit -k settings")
	$(BIN)/python -m pytest --ignore=tests/bench $(ARGS)

fmt: $(READY) ## format, and mend what can be mended
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lint: $(READY) ## style, banned calls, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY) ## mypy, strict
	$(BIN)/mypy

bench: $(READY) ## latency and throughput, side by side
	$(BIN)/python -m tests.bench $(ARGS)

chaos: $(READY) ## CHAOS_KILLS=100 seeded kills of the supervisor (ARGS="--chaos-seed 7")
	$(BIN)/python -m pytest tests/chaos -s --chaos-kills=$(CHAOS_KILLS) $(ARGS)

# Hashes only: nothing in the lock says where a package comes from.
lock: ## resolve the dependencies again (ARGS=--upgrade for newer ones)
	@$(FIND_PYTHON); \
	"$$(need_python)" -m venv --clear $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(VENV)/lock/bin/uv pip compile --quiet --no-config pyproject.toml --group dev --universal \
		--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command "make lock" --output-file requirements.lock $(ARGS)
	rm -rf $(VENV)/lock

clean: ## remove what make made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache *.egg-info
	find supervisor tests -name __pycache__ -prune -exec rm -rf {} +

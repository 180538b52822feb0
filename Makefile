# `make run` and `make test` are all it takes on a new Debian or Ubuntu machine; `make` alone lists the rest.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run demo test ready lint types unit integration soak lock clean

BIN := .venv/bin
ARGS ?=
LUA := $(shell find clients/openresty -name '*.lua' -print -quit 2>/dev/null)
SCRIPTS := $(wildcard tools/*.py benchmarks/*.py)

export PYTHON
unexport PYTHONHOME PYTHONPATH

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo "ARGS='...' is handed on to run, demo, unit and integration; PYTHON=... takes another Python than python3."

run: ## Start the server with ./conf.yaml, or else its embedded defaults, until Ctrl-C
	@tools/setup run
	@exec $(BIN)/ssl-cert-server run $(ARGS)

demo: ## Show a site come up through nginx with a certificate from a real ACME CA, until Ctrl-C
	@tools/setup test
	@exec $(BIN)/python -m tools.demo $(ARGS)

test: ready lint types unit integration ## Everything CI checks

ready: # first of all, so that whatever is missing is told at once
	@tools/setup test

lint: ## ruff, and luacheck on the Lua client
	@tools/setup lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(LUA),cd clients/openresty && luacheck .)

types: ## mypy --strict
	@tools/setup dev
	$(BIN)/mypy src tests $(SCRIPTS)

unit: ## Tests that start no program
	@tools/setup dev
	$(BIN)/pytest tests/unit $(ARGS)

integration: ## Tests against a real ACME server and a real nginx
	@tools/setup test
	$(BIN)/pytest -n 2 --dist loadfile tests/integration $(ARGS)

soak: ## Kill instances and storages again and again under load, for two hours or so (KILLS=1000)
	@tools/setup test
	SOAK_KILLS=$(or $(KILLS),1000) $(BIN)/pytest tests/integration/test_shared_storage.py -k kill_9 \
		-o faulthandler_timeout=14400 $(ARGS)

lock: ## Write requirements*.lock anew from pyproject.toml (UPGRADE=1: newest versions)
	@tools/setup lock

clean: ## Remove all that the other targets made here, but for ./secret-dir: the certificates of make run
	rm -rf .venv .tools .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

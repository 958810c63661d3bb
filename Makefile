# Everything a contributor runs. Each target brings .venv up to date by itself; nothing needs activating.
#
# All paths are relative, so that a folder with spaces in its name is as good as any.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first Python that is new enough and can make environments; `make PYTHON=...` takes another.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3.10 python3; do \
  if "$$each" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then \
  echo "$$each"; break; fi; done)
# Installed before everything else and by exact version: a range would take a newer build, with gigabytes of CUDA.
TORCH ?= torch==2.13.0
LOCKED := requirements/constraints.txt
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/up-to-date
# Long outputs of quiet steps are shown only when the step fails.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

RTT ?= 20
ARGS ?=
TESTS ?=
# Runs that `make law` lets an adversary try.
ADVERSARIES ?= 100000
OUT ?= out/faults
SOAK_S ?= 600

# Runs "$(call timed,what,command)" and tells how long it took.
timed = started=$$SECONDS; $(2); echo "· $(1): $$((SECONDS - started)) s"

.PHONY: help demo test test-slow train-small law faults soak bench-quick bench-full fuzz lint format proto lock clean

help: ## Show this list.
	@echo "make TARGET; the environment is made in $(VENV) when first needed."
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

demo: $(STAMP) ## Watch edge and cloud write one text together (RTT=20 in ms, ARGS="..." for more options).
	@$(BIN)/foredraft demo --rtt-ms "$(RTT)" $(ARGS)

test: $(STAMP) ## Run the tests (TESTS="path -k word" for some of them).
	@$(call timed,test,$(BIN)/python -m pytest $(TESTS))

test-slow: $(STAMP) ## Run the tests that take minutes.
	@$(call timed,test-slow,$(BIN)/python -m pytest -m slow --timeout 1800 $(TESTS))

train-small: $(STAMP) ## Make a small draft for the small model, start to end, in minutes: collect, train, evaluate.
	@$(call timed,train-small,$(BIN)/python -m pytest -m slow --timeout 900 -s tests/end_to_end/test_train_small.py)

law: $(STAMP) ## Put the one law to the test: 1,200 texts of the real model in each dtype, thousands over a faulty link.
	@$(call timed,law,LAW_EXAMPLES=1500 $(BIN)/python -m pytest --timeout 7200 tests/edge/test_loop.py -k law)
	@$(call timed,law against an adversary,LAW_EXAMPLES=$(ADVERSARIES) $(BIN)/python -m pytest --timeout 36000 -m slow tests/edge/test_law_machine.py)
	@$(call timed,law,$(BIN)/python -m pytest --timeout 7200 -m slow tests/end_to_end/test_law.py $(TESTS))

faults: $(STAMP) ## Break everything that can break while texts are written; the report goes to OUT=out/faults.
	@$(call timed,faults,$(BIN)/foredraft bench faults --out "$(OUT)" $(ARGS))

bench-quick: OUT = out/bench
bench-quick: $(STAMP) ## Compare all modes over three networks, in under five minutes; the report goes to OUT=out/bench.
	@$(call timed,bench-quick,$(BIN)/foredraft bench --quick --out "$(OUT)" $(ARGS))

bench-full: OUT = docs/bench
bench-full: $(STAMP) ## Compare them over all networks, lengths and numbers of devices, in 20 minutes; into OUT=docs/bench.
	@$(call timed,bench-full,$(BIN)/foredraft bench --full --minutes 20 --recording tests/data/link_recording.csv --out "$(OUT)" $(ARGS))

fuzz: $(STAMP) ## Throw 1,000,000 frames at every decoder and at a server's socket; figures go to OUT (one core, minutes).
	@$(call timed,fuzz,FUZZ_FRAMES=$${FUZZ_FRAMES:-1000000} OUT="$${OUT:-out/fuzz}" $(BIN)/python -m pytest --timeout 3000 -s tests/fuzz $(TESTS))

soak: $(STAMP) ## Write 32 texts at once under random faults for ten minutes (SOAK_S=600); nothing may grow.
	@$(call timed,soak,$(BIN)/foredraft bench soak --seconds "$(SOAK_S)" $(ARGS))

lint: $(STAMP) ## Check style, format, types and the direction of imports.
	@$(call timed,ruff check,$(BIN)/ruff check --quiet)
	@$(call timed,ruff format,$(BIN)/ruff format --quiet --diff)
	@$(call timed,mypy,$(BIN)/python -m mypy --no-error-summary)
	@$(call timed,import contracts,$(BIN)/lint-imports > $(VENV)/contracts.log || { cat $(VENV)/contracts.log; exit 1; })

format: $(STAMP) ## Format the code and mend what can be mended by itself.
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format

proto: $(STAMP) ## Generate the Python beside each .proto file.
	@$(BIN)/python -m foredraft_protos.generate

lock: ## Choose the newest versions that fit pyproject.toml, and lock them.
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)" >&2; exit 1; }
	@rm -rf .venv-lock
	@"$(PYTHON)" -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet "$(TORCH)"
	@.venv-lock/bin/python -m pip install --quiet --editable ".[dev]"
	@.venv-lock/bin/python requirements/lock.py > $(LOCKED).new
	@mv $(LOCKED).new $(LOCKED)
	@rm -rf .venv-lock
	@git --no-pager diff --stat -- $(LOCKED)

clean: ## Remove the environment and everything that tools left behind.
	@rm -rf $(VENV) .venv-lock build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The environment is changed in place, never removed: programs may be running from it. Two makes at once take turns (where
# there is flock), and the second finds the work done.
$(STAMP): pyproject.toml $(LOCKED)
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)" >&2; exit 1; }
	@mkdir -p $(VENV)
	@exec 9> $(VENV)/lock; if command -v flock > /dev/null; then flock 9; fi; \
	if [[ $@ -nt pyproject.toml && $@ -nt $(LOCKED) ]]; then exit 0; fi; \
	started=$$SECONDS; echo "· environment: bringing $(VENV) up to date (the first time takes minutes)"; \
	quietly() { "$$@" > $(VENV)/install.log 2>&1 || { cat $(VENV)/install.log >&2; exit 1; }; }; \
	test -x $(BIN)/python || quietly "$(PYTHON)" -m venv $(VENV); \
	quietly $(BIN)/python -m pip install --constraint $(LOCKED) "$(TORCH)"; \
	quietly $(BIN)/python -m pip install --constraint $(LOCKED) --editable ".[dev]"; \
	touch $@; echo "· environment: $$((SECONDS - started)) s"

NO_PYTHON := No Python 3.10 or newer with venv was found; install one (on Debian: python3 and python3-venv), or name it: make PYTHON=...

# The two commands of the README, and what contributors need. Everything sets up what it needs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types unit faults bench lock clean

demo: $(STAMP)  ## The main job on the embedded virtual dongle; ONCE=1 ends by itself
	@$(BIN)/python -m examples.demo $(if $(ONCE),--once)

test: lint types unit  ## Everything that must be true

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/pytest

faults: $(STAMP)  ## Plants each kept fault and shows that the tests catch it
	$(BIN)/python -m tests.faults

bench: $(STAMP)  ## Compares with a bare server in the same run
	$(BIN)/python -m bench

lock:  ## Renews requirements.txt from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --group dev --no-annotate --custom-compile-command 'make lock' -o requirements.txt pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): requirements.txt pyproject.toml
	@echo 'setting up $(VENV), this takes a moment'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The commands of a user: `make train`, `make test`, `make setup`.
# A set-up is done once; `.venv/.ready` remembers of which files.

PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c 'import ensurepip' 2>/dev/null && echo python3.11 || \
            (command -v python3.12 >/dev/null 2>&1 && python3.12 -c 'import ensurepip' 2>/dev/null && echo python3.12) || echo python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKDIR ?= runs/python_stdlib

.PHONY: setup train test lint clean-venv

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); \
	  sys.exit(0 if ok else "Triform needs Python 3.11 or 3.12; this is " + sys.version.split()[0] + ". Name one: make setup PYTHON=python3.12")'
	@echo "Setting up $(VENV) (once; one to two minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[serve,dev]'
	@touch $(READY)

train: $(READY)
	$(BIN)/python train.py --config=configs/python_stdlib.py --workdir=$(WORKDIR)

test: $(READY) lint
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=. $(BIN)/lint-imports --no-cache

clean-venv:
	rm -rf $(VENV)

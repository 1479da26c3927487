# The commands of a user: `make train`, `make test`, `make setup`; `make test-full` for longer tests,
# `make faults` for runs that are killed, stopped and damaged, `make test-storage` for object stores,
# `make test-server` for a server under attack, `make parity` for those against PyTorch,
# `make bench-quick` for the speed of a change; for accelerators `make tpu-check`, `make gpu-run`.
# A set-up is done once, in steps: what training needs; then the server's libraries and the tools
# of developers; then what single targets add. A file for each step, such as `.venv/.ready`, says
# that it is complete.

PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 -c 'import ensurepip' 2>/dev/null && echo python3.11 || \
            (command -v python3.12 >/dev/null 2>&1 && python3.12 -c 'import ensurepip' 2>/dev/null && echo python3.12) || echo python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEV    := $(VENV)/.dev
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
WORKDIR ?= runs/python_stdlib

.PHONY: setup train test test-full faults test-storage test-server parity bench-quick lint tpu-check gpu-run gpu-check bench-gpu wheels golden clean-venv

setup: $(DEV)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 13); \
	  sys.exit(0 if ok else "Triform needs Python 3.11 or 3.12; this is " + sys.version.split()[0] + ". Name one: make setup PYTHON=python3.12")'
	@echo "Setting up $(VENV) for training (once; under a minute with a warm package cache)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) --editable .
	@touch $@

$(DEV): $(READY)
	@echo "Adding the server's libraries and the tools of developers to $(VENV) (once)"
	@$(INSTALL) --editable '.[serve,dev]'
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true
	@touch $@

train: $(READY)
	$(BIN)/python train.py --config=configs/python_stdlib.py --workdir=$(WORKDIR)

test: $(DEV) lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not full" --ignore=tests/parity --ignore=tests/long --ignore=tests/full --ignore=tests/benchmarks --ignore=tests/golden

# Every family on every modality, from a mesh through a checkpoint to another one; two hosts as one;
# benchmarks at toy size; workdirs of earlier, which evaluate to the same figures; the tests of each
# room that are marked as `full`. PART=2/3: the second third of the tests.
test-full: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m full --ignore=tests/parity --ignore=tests/long --ignore=tests/faults --ignore=tests/benchmarks/test_train_step.py $(if $(PART),--part=$(PART))

# Kills, signals, hangs, damage, power cuts, lost hosts: each case resumes twice, and says what it did
# and found. PART=2/3: the second third of those that `make test` leaves out.
faults: $(VENV)/.storage
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/faults $(if $(PART),-m full --part=$(PART))

# Object stores, by emulators of Google Cloud Storage and S3. `make test` runs what needs none.
test-storage: $(VENV)/.storage
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/storage tests/data/test_remote_files.py tests/data/test_prepared_sets.py tests/training/test_remote_steps.py tests/end_to_end/test_remote_places.py

$(VENV)/.storage: $(DEV)
	@echo "Adding object stores and their emulators to $(VENV) (once; 130 MB)"
	@$(INSTALL) --editable '.[storage,storage-tests]'
	@touch $@

# A server under attack, and after it; 500 random requests to each route; the web page in a browser,
# where Chromium is installed.
test-server: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/long

# Layers and losses against PyTorch's, models against those of transformers, with the same weights.
parity: $(VENV)/.bench
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/parity tests/benchmarks/test_train_step.py

$(VENV)/.bench: $(DEV)
	@echo "Adding PyTorch and other peers to $(VENV) (once)"
	@$(INSTALL) --editable '.[bench]'
	@touch $@

# Whether this tree is slower than the last commit, or with BASE=COMMIT than that tree: step, loop,
# input and start, in turns; under three minutes.
bench-quick: $(READY)
	$(BIN)/python benchmarks/quick.py $(if $(BASE),--base=$(BASE))

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-cache

# Train steps compiled for slices of TPUs, on a machine without any.
tpu-check: $(VENV)/.tpu
	$(BIN)/python benchmarks/tpu_check.py

$(VENV)/.tpu: $(READY)
	@echo "Adding libtpu to $(VENV) (once; half a gigabyte)"
	@$(INSTALL) --editable '.[tpu]'
	@touch $@

# On a GPU, with the interpreter that PYTHON names as it is: no set-up, no network. It has JAX with
# CUDA, Flax, Optax, Orbax, tokenizers, rich, jinja2, pillow, matplotlib and scikit-learn; what else
# it lacks comes from wheels/, which `make wheels` fills, elsewhere and with the same version of
# Python; without what is only there to fetch data sets.
CARRIED := tensorflow-datasets grain array-record ml-collections pydantic tensorboardX soundfile soxr xxhash
OFFLINE  = PYTHONPATH=$(CURDIR)/wheels $(PYTHON)

gpu-run:
	$(OFFLINE) benchmarks/gpu_run.py

# Parts of it: does it compute what the CPU does, and how fast, beside PyTorch.
gpu-check:
	$(OFFLINE) benchmarks/gpu_run.py --only=checks

bench-gpu:
	$(OFFLINE) benchmarks/gpu_run.py --only=speed

wheels:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade --no-compile --target wheels/site $(CARRIED)
	@cd wheels/site && rm -rf bin numpy* pyarrow* && \
	  find tensorflow_datasets -name '*.txt' -delete -o -name '*.tsv' -delete -o -name '*.bib' -delete
	@echo 'import os, sys; sys.path.append(os.path.join(os.path.dirname(__file__), "site"))' > wheels/sitecustomize.py

# Whether this tree does what it did: against stored values, and with BASE=COMMIT against that tree.
golden: $(DEV)
	$(BIN)/python -m tests.golden.compare $(if $(BASE),--base=$(BASE))

clean-venv:
	rm -rf $(VENV)

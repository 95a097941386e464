# Thunderhead. `make` lists what there is to do.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
LOCK = $(shell $(PYTHON) -c 'import sys, sysconfig; print(f"lock-{sysconfig.get_platform()}-{sys.implementation.cache_tag}.txt")')

.DEFAULT_GOAL := help
.PHONY: help install install-locked lock audit train test test-fast schema bench gpu chaos lint format tensorboard screenshots clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv and install everything into it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/it")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What is built (one package, and this project's own) is built by the setuptools of the lock, which therefore goes first.
install-locked: ## create .venv anew from the very files whose hashes are locked
	@test -f $(LOCK) || { echo "there is no $(LOCK): on this platform, make install and make lock come first"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	grep '^setuptools==' $(LOCK) | $(BIN)/python -m pip install --require-hashes --no-deps --requirement /dev/stdin
	$(BIN)/python -m pip install --require-hashes --no-deps --no-build-isolation --requirement $(LOCK)
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $(INSTALLED)

lock: $(INSTALLED) ## write the hashes of what constraints.txt installs on this platform
	$(BIN)/python -m tests.dependencies lock

audit: $(INSTALLED) ## ask whether holes are known in what is locked (needs a network)
	$(BIN)/python -m tests.dependencies audit

train: $(INSTALLED) ## train the default model on a built-in data set: make train ARGS="model=cnn data=mnist"
	$(BIN)/python -m src.train $(ARGS)

# Bytecode is kept even where the environment says otherwise: the tests start interpreters.
test: lint ## lint, check types, run the tests
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-fast: $(INSTALLED) ## run the tests that take little: a first look after each change
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m "not slow and not gpu"

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(INSTALLED) ## write the schemas with which editors check the files in conf/
	$(BIN)/python -m src.training.validation.schema

bench: $(INSTALLED) ## measure the speed side by side with other ways (long; needs MNIST and CIFAR-10): make bench ARGS="steps_xor --rounds 1"
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt 'kornia>=0.8'
	$(BIN)/python -m tests.bench $(ARGS)

gpu: $(INSTALLED) ## test and measure on a GPU, in minutes: make gpu ARGS="tests", "bench steps", results; ARGS=dry tries it on the CPU
	-$(BIN)/python -m pip install --quiet --retries 0 --constraint constraints.txt 'kornia>=0.8'
	$(BIN)/python -m tests.gpu $(ARGS)

chaos: $(INSTALLED) ## attack runs and sweeps: crashes, kills, damage, full disks, bad settings (an hour): make chaos ARGS="states --seed 1"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(ARGS)

tensorboard: $(INSTALLED) ## look at the results in a browser: make tensorboard SWEEP=outputs/sweeps/NAME
	$(BIN)/tensorboard --logdir $(or $(SWEEP),outputs)

screenshots: $(INSTALLED) ## take README's pictures of pages anew (needs Chromium and FashionMNIST; five minutes)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'playwright>=1.50'
	$(BIN)/python -m tests.screenshots

clean: ## remove caches; results, data and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find src tests -name __pycache__ -type d -exec rm -rf {} +

# make demo | test | gpu | lint | docs | clean. Each makes the environment first if it is not there.

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first interpreter on PATH that really starts, is new enough and can make
# environments: a version manager's shim may exist and yet refuse to run.
PYTHON ?= $(shell \
	IFS=:; for name in python3.11 python3.12 python3.13 python3.10 python3; do \
	for folder in $$PATH; do \
	"$$folder/$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' \
	>/dev/null 2>&1 && echo "$$folder/$$name" && exit; done; done)

# Neither the demo nor the tests need the model hub; `make test HF_HUB_OFFLINE=0
# PYTEST_ARGS="-m network"` runs the tests that do.
export HF_HUB_OFFLINE ?= 1

# What is installed beside the package. Tests of the ONNX export and of Dask skip
# themselves without theirs; .ci/run installs all, and runs them.
EXTRAS ?= test,plot

# Two processes of one thread each finish the tests sooner than one of two threads; a
# file stays with one of them, which then fits its shared models once.
WORKERS ?= 2

.PHONY: demo test gpu lint docs clean

demo: $(STAMP)
	$(BIN)/diffqa demo --out demo

# With bytecode: the suite starts a hundred processes, each of which would compile the
# package and rewrite assertions again.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --minutes 10

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell

docs: $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) build dist demo docs/_build docs/auto_examples docs/generated .pytest_cache .ruff_cache .hypothesis
	find diffqa_features tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Touched last: an installation that was interrupted is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
	echo "No Python 3.10 or newer with venv found. Say: make PYTHON=/path/to/python3" >&2; \
	exit 1; }
	test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install -c constraints.txt -e ".[$(EXTRAS)]"
	touch "$(STAMP)"

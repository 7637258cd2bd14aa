# One virtual environment, set up once; then ask, test and train in it. `make help` lists what there is.
#
# Variables, given as `make ask IMAGE=photo.jpg QUESTION="What is this?"`:
#   IMAGE, QUESTION   what `make ask` asks
#   PYTHON            the interpreter to build the environment with; found by itself otherwise
#   PIP_ARGS          passed to `pip install`, for example an index with CPU builds of torch
#   PYTEST_ARGS       passed to pytest, for example `-k routing`
#   JOBS              test processes
#   STEPS             fewer training steps than the recipes say, to try them out

VENV := .venv
STAMP := $(VENV)/.set-up
RECIPES := plugins/mova-nano/recipes
EXPERTS := $(wildcard plugins/mova-expert-* examples/mova-expert-*)
PYTHONS = $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python)

IMAGE = examples/images/brain.png
QUESTION = In which plane was this brain cut?
JOBS = 2
STEPS =

# As environment variables a picture's name and a question need no quoting here.
export IMAGE QUESTION

.PHONY: help setup ask test lint bench bench-quick train-nano clean

help:
	@echo 'make setup       set up $(VENV), once'
	@echo 'make ask         answer a question about a picture (IMAGE=..., QUESTION=...)'
	@echo 'make test        run the tests, with lint and type checks'
	@echo 'make lint        run lint, type checks and the check of import rules only'
	@echo 'make bench       measure speed and memory against a plain reference (five minutes)'
	@echo 'make bench-quick the same at smaller sizes (under a minute)'
	@echo 'make train-nano  train mova-nano in its four stages (an hour and a half or more); repeat to resume'
	@echo 'make clean       remove $(VENV) and the caches of tools'

setup: $(STAMP)
	@echo '$(VENV) is set up.'

# One pip call, mova-core first: the plugins need it and each other, and no index is to be asked for them.
$(STAMP): pyproject.toml plugins/mova-nano/pyproject.toml $(EXPERTS:%=%/pyproject.toml) constraints.txt
	@if $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
	    echo 'Updating $(VENV): what it is made from has changed.'; \
	else \
	    $(find_python); \
	    echo "Setting up $(VENV) with $$("$$python" --version), once; PyTorch makes it a large download."; \
	    "$$python" -m venv --clear $(VENV); \
	fi
	$(VENV)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS) \
	    --editable '.[dev]' --editable 'plugins/mova-nano[train]' $(EXPERTS:%=--editable %)
	@touch $@

ask: $(STAMP)
	$(VENV)/bin/mova models pull mova-nano
	$(VENV)/bin/mova ask "$$IMAGE" "$$QUESTION"

# One thread a process: several processes that each use all cores slow each other down.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) -m 'not slow' $(PYTEST_ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks

bench-quick: $(STAMP)
	$(VENV)/bin/python -m benchmarks --quick

train-nano: $(STAMP)
	$(VENV)/bin/mova models pull mova-nano
	$(VENV)/bin/mova train align $(RECIPES)/1-align.yaml --resume $(STEPS:%=--steps %)
	$(VENV)/bin/mova train sft $(RECIPES)/2-sft.yaml --resume $(STEPS:%=--steps %)
	$(VENV)/bin/mova train router $(RECIPES)/3-router.yaml --resume $(STEPS:%=--steps %)
	$(VENV)/bin/mova train router $(RECIPES)/4-router.yaml --resume $(STEPS:%=--steps %)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find mova_core benchmarks plugins tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets the shell variable `python` to the first one that is new enough, or ends the recipe.
define find_python
python= ; \
for candidate in $(PYTHONS); do \
    if command -v "$$candidate" >/dev/null && \
        "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
        python="$$candidate"; break; \
    fi; \
done; \
if [ -z "$$python" ]; then \
    echo 'error: no Python 3.11 or newer among $(PYTHONS).' \
        'Install one, or name it: make setup PYTHON=/path/to/python' >&2; exit 1; \
fi; \
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
    echo "error: $$python cannot make virtual environments." \
        'On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; \
fi
endef

# Every target makes the environment first when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
# A file of tests stays in one worker: most of its time is what its tests share.
WORKERS ?= 2

.PHONY: setup eval test check lint types docs
setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	grep '^torch==' requirements.lock > $(VENV)/torch.txt && $(BIN)/pip install --quiet -r $(VENV)/torch.txt
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

eval: $(STAMP)
	$(BIN)/python run_eval.py run

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types test
	$(BIN)/python run_eval.py report --check

docs: $(STAMP)
	$(BIN)/pip install --quiet -r docs/requirements.txt
	$(BIN)/mkdocs build --strict

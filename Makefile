# What a newcomer, a developer and the build server call; each target sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test test-all check docs bench clean

demo: $(VENV)/.local
	$(BIN)/imagemill generate examples/prompts.csv -o demo --images-per-prompt 2 --seed 7
	$(BIN)/imagemill sheet demo -o demo.png
	@echo "pictures: demo/images/part-000001, all on one sheet: demo.png"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist loadfile

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/python docs/reference.py
	$(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev
	@mkdir -p benchmarks/results
	for name in host_tax speedup batch_size packing exactness encoding remote selection export metadata resume edits gallery; do \
		$(BIN)/python -m benchmarks.$$name --output benchmarks/results/$$name.json || exit 1; \
	done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.local: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[local]'
	@touch $@

$(VENV)/.dev: $(VENV)/.local
	$(PIP) install --constraint constraints.txt --editable '.[local,remote,cloud,c2pa,serve,dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo demo.png site dist

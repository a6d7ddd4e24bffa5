# `make quickstart` and `make test` set up all they need in .venv and can be repeated.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: quickstart starter-model test faults mutations lint install clean

quickstart: install
	$(BIN)/maml-en-llm quickstart --output quickstart

# Hours on a CPU; a run that was stopped goes on where it was.
starter-model: install
	OMP_NUM_THREADS=1 $(BIN)/python -m recipes.starter.language_model starter-model

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Kills, full disks and damaged files, 2,000 of them: docs/reliability.md.
faults: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/reliability/faults.py --cases 2000

# Files with anything in their place, 2,000 of each kind: docs/reliability.md.
mutations: install
	FUZZ_EXAMPLES=2000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --hypothesis-show-statistics tests/reliability/test_any_shape.py \
		tests/tasks/test_any_shape.py tests/test_results.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv quickstart starter-model build dist

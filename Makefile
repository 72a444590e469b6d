# Everything on a fresh machine: each target first makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUITE ?= quickstart
RESULTS ?= results
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

.PHONY: run test test-slow test-full lint docs speed clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,tune,report,data,pretrained]'
	touch $@

run: $(VENV)/.installed ## train the quickstart suite and show its leaderboard
	$(BIN)/mmbench run $(SUITE) --results $(RESULTS)

test: $(VENV)/.installed ## all tests but the slow ones, a process for each core
	$(PYTEST) -m "not slow and not rebuild"

test-slow: $(VENV)/.installed ## trainings, whole sweeps, killed workers, pages in a browser
	$(PYTEST) -n $$(n=$$(nproc); echo $$((n < 8 ? n + 2 : 8))) --jaxtyping-packages= -m "slow and not full and not rebuild" # some wait; no shape is checked, as users run it

test-full: $(VENV)/.installed ## every method on every kind of modality alone, on every backbone, in bfloat16
	$(PYTEST) -m full --exitfirst

lint: $(VENV)/.installed ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed ## the documentation, into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

speed: $(VENV)/.installed ## ratios and counts, printed; judged by people
	for script in benchmarks/speed/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean: ## remove what can be made again; results stay
	rm -rf $(VENV) build dist docs/_build docs/generated .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

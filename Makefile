PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test fuzz slow mutants lint docs links examples wheel bench clean

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --editable '.[dev]'
	touch $@

demo: .venv/installed ## train on scikit-learn's digits, evaluate both ways, draw
	rm -rf runs/demo
	$(BIN)/gncadeq train digits --epochs 30 --out runs/demo
	$(BIN)/gncadeq evaluate runs/demo --as nca --steps 1000 --fire-rate 0.5
	$(BIN)/gncadeq show runs/demo

test: .venv/installed ## the quick tests; make test ARGS="-n 2 --dist loadfile" for two processes
	$(BIN)/python -m pytest $(ARGS)

fuzz: .venv/installed ## 10,000 damaged files, wrong options and arguments; runs killed at 50 random moments
	GNCADEQ_FUZZ=10000 $(BIN)/python -m pytest tests/test_fuzz.py
	GNCADEQ_KILLS=50 $(BIN)/python -m pytest tests/test_kill.py

slow: .venv/installed ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

mutants: .venv/installed ## do the tests notice small changes of the package? make mutants ARGS="--count 200"
	$(BIN)/python tests/mutate.py $(ARGS)

lint: .venv/installed ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed ## the documentation, in docs/_build/html; warnings are errors
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q -b html docs docs/_build/html

links: .venv/installed ## do the links of the documentation lead somewhere? needs a network
	$(BIN)/sphinx-build -q -b linkcheck -D nb_execution_mode=off docs docs/_build/links

examples: .venv/installed ## every example in its smoke mode
	$(BIN)/python -W ignore tests/run_examples.py

wheel: .venv/installed ## build the wheel and use it outside of the checkout
	bash .ci/wheel

bench: .venv/installed ## every benchmark, on an idle machine; make bench DATA=folder for real data
	$(BIN)/python -W ignore -m benchmarks all $(if $(DATA),--data-root $(DATA))

clean:
	rm -rf .venv build dist docs/_build

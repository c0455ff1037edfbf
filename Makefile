# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lowest check fuzz crash bench api docs wheel clean

demo: $(STAMP)
	$(BIN)/emgscribe demo

test: $(STAMP)
	$(BIN)/pytest -n auto --dist worksteal

# With the lowest versions that pyproject.toml allows: the tests that meet each package. Code that one Numba compiled is
# not for another.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet -c constraints-lowest.txt --editable \
	  '.[bids,brainflow,export,intan,keys,live,lsl,slurm,train,tune,xdf]' pytest pytest-xdist hypothesis selenium
	NUMBA_CACHE_DIR=$(CURDIR)/.venv-lowest/numba .venv-lowest/bin/pytest -n auto --dist worksteal -W default \
	  $(addprefix tests/test_,$(addsuffix .py,convert data_hdf5 decoders figures golden language_model launch \
	  live_devices live_page model onnx search))

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/test_architecture.py $(wildcard tests/test_docs.py)

fuzz: $(STAMP)
	$(BIN)/python scripts/fuzz.py --cases 10000

crash: $(STAMP)
	$(BIN)/python scripts/crash.py

api: $(STAMP)
	$(BIN)/python scripts/api.py

docs: $(STAMP)
	$(BIN)/zensical build --strict

# What a release holds: the sdist, the wheel that is made from it, and that wheel alone in an environment of its own.
wheel: $(STAMP)
	rm -rf dist .venv-wheel
	$(BIN)/python -m build
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet -c constraints.txt "$$(ls dist/*.whl)[live,train]"
	cd .venv-wheel && export PYTHONPATH= && bin/emgscribe simulate --out data --users 1 --sessions 1 --minutes 0.5 && \
	  bin/emgscribe evaluate live data/*.hdf5 && \
	  bin/emgscribe live --source replay --file data/*.hdf5 --speed 0 --print-text --no-browser --port 0

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/encoders.py
	$(BIN)/python benchmarks/decoding.py

# The constraints are the tested set. Where pip finds a CPU build of that torch it is small; the build for Linux on the
# public index brings CUDA along (gigabytes): to avoid it, install the CPU build into .venv first.
$(STAMP): pyproject.toml constraints.txt
	@echo "installing into .venv: a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf .venv .venv-lowest .venv-wheel .cache demo dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

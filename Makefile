# Every target does its own set-up in .venv; all that is needed is Python 3.10 or later and make.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do \
    command -v $$p >/dev/null 2>&1 && \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONHASHSEED ?= 0
# Tests run in two processes; more threads in each would only get in each other's way.
TEST_ENV := OMP_NUM_THREADS=1 PYTHONPATH=
WORKERS ?= 2

.PHONY: help demo test test-all fuzz mutate stress bench check fmt docs clean

help:
	@echo "make demo      compile, check and train with the examples (about two minutes)"
	@echo "make test      the tests (sampled sweeps)"
	@echo "make test-all  the tests with the full sweeps"
	@echo "make fuzz N=2000   random specs against the reference, going on where it stopped"
	@echo "make mutate N=300  random changes of the compiler, and whether any check minds (hours)"
	@echo "make stress    hard numbers: docs/numerics.md anew (half an hour)"
	@echo "make bench     times on this CPU: docs/performance.md anew (a quarter of an hour)"
	@echo "make check     ruff, mypy --strict, import ranks, formatting of the examples"
	@echo "make fmt       format Python and .scan files"
	@echo "make docs      write docs/examples.md anew"

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.10 or later on the PATH" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) (torch is large: some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]' || { \
	  echo "make: the tested versions do not install on this Python; taking the newest that do" >&2; \
	  $(BIN)/python -m pip install --quiet -e '.[dev]'; }
	@touch $@

demo: $(STAMP)
	@$(BIN)/python examples/demo.py

docs: $(STAMP)
	$(BIN)/scandsl doc examples --title Examples --out docs/examples.md

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests

test-all: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m '' tests

fuzz: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m tests.fuzz $(or $(N),200) $(FUZZ)

mutate: $(STAMP)
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mutation]'
	$(TEST_ENV) $(BIN)/python -m tests.faults.mutate --number $(or $(N),300) \
	  --results build/mutants/results.jsonl

stress: $(STAMP)
	$(BIN)/python benchmarks/stress.py

# Scans whose time against length is measured, at K = V = 64.
SUITE := $(addprefix examples/,$(addsuffix .scan,linear_attention retnet simple_gla mamba2 gla \
    delta_net gated_delta_rule kimi_delta_attention))

# Scans that are measured under torch.compile too.
COMPILED := examples/simple_gla.scan examples/gated_delta_rule.scan

bench: $(STAMP)
	$(BIN)/python benchmarks/cpu.py
	$(BIN)/scandsl bench $(SUITE) --suite cpu --no-loop --json benchmarks/results/suite-cpu.json
	$(BIN)/scandsl bench $(COMPILED) -T 4096 --compiled --no-loop \
	    --json benchmarks/results/compiled-cpu.json
	$(BIN)/python benchmarks/launch.py
	$(BIN)/python benchmarks/page.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/scandsl fmt --check examples
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_ranks.py

fmt: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/scandsl fmt examples

clean:
	rm -rf $(VENV) build dist demo_out .pytest_cache .mypy_cache .ruff_cache .hypothesis

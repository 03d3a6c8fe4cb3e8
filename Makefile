# Two commands do everything: `make demo` walks the whole road, `make test` runs every check.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Where pip looks for a build of torch beside its usual index. For CPUs alone, without CUDA packages of several GB:
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
INSTALL = $(PIP) install --quiet --constraint constraints.txt $(addprefix --extra-index-url ,$(TORCH_INDEX)) --editable

.PHONY: demo test prove docs clean

demo: .venv/installed
	$(BIN)/python tools/demo.py --out demo

test: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=xml:build/coverage.xml --cov-fail-under=96

# Minutes: random networks cut at random, each group of each shipped network cut alone, all verified;
# runs killed at random moments, their files those of a run that nobody killed; networks cut to a
# part of their time while other processes want the cores, and timed when the machine is idle; ten
# minutes of files changed at random, each of which its reader accepts or refuses.
prove: .venv/tested
	OMP_NUM_THREADS=1 PRUNE_RANDOM_NETWORKS=2000 $(BIN)/python -m pytest -m "slow or not slow" \
		tests/core/test_random_networks.py tests/pruner/test_shipped_groups.py
	OMP_NUM_THREADS=1 PRUNE_KILLS=20 $(BIN)/python -m pytest tests/train/test_kill.py
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py --minutes 10 --tries 100000 --keep build/fuzz
	$(BIN)/python tools/bench_auto_load.py --runs 5

# The site of docs/, in build/site: every link is checked, the references are generated.
docs: .venv/documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# A stamp, so that a second run costs nothing and a changed requirement installs again.
.venv/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) .
	touch $@

.venv/tested: .venv/installed
	$(INSTALL) '.[test]'
	touch $@

.venv/documented: .venv/installed
	$(INSTALL) '.[docs]'
	touch $@

clean:
	rm -rf .venv demo build *.egg-info

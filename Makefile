# Everything runs in .venv. If a requirement file is newer than the stamp, make installs again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Compiling all modules at installation is slow; Python compiles a module on first import.
PIP_OPTIONS := --quiet --disable-pip-version-check --no-compile

.PHONY: demo test test-long lint smoke bench clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e ".[dev]"
	touch $(STAMP)

# Installs the testbed, runs the 100-device scenario and writes results/demo/report.html.
demo: $(STAMP)
	$(BIN)/python -m testbed.run scenarios/100_devices.yaml --out results/demo --force

smoke: $(STAMP)
	$(BIN)/python -m testbed.run scenarios/smoke.yaml --force

# All checks: style, types, tests.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# Slow tests: fault injection and benchmarks (several minutes).
test-long: $(STAMP)
	$(BIN)/python -m pytest -m long

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Compares the speed with Flower's simulation, pfl-research (in a separate environment) and torch.
PFL := .venv-pfl
$(PFL)/.installed:
	$(PYTHON) -m venv $(PFL)
	$(PFL)/bin/python -m pip install $(PIP_OPTIONS) torch==2.13.0 "pfl[pytorch]==0.6.0"
	touch $@

bench: $(STAMP) $(PFL)/.installed
	$(BIN)/python benchmarks/fleet_speed.py --pfl-python $(PFL)/bin/python --document docs/speed.md
	$(BIN)/python benchmarks/start_up.py --document docs/speed.md
	$(BIN)/python benchmarks/ladder_speed.py --document docs/speed.md

clean:
	rm -rf $(VENV) $(PFL) results .mypy_cache .ruff_cache .pytest_cache

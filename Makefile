# Everything runs in .venv; a stamp remembers for which requirements it was made.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint smoke clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

# Installs the testbed, runs the 100-device scenario and writes results/demo/report.html.
demo: $(STAMP)
	$(BIN)/python -m testbed.run scenarios/100_devices.yaml --out results/demo --force

smoke: $(STAMP)
	$(BIN)/python -m testbed.run scenarios/smoke.yaml --force

# All checks: style, types, tests.
test: lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) results .mypy_cache .ruff_cache .pytest_cache

# make demo | test | test-slow | bench | lint: each creates .venv from constraints.txt when it is missing.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo test test-slow bench lint clean

# torch goes first and alone: asked for by another package, it could resolve to a CUDA build of several gigabytes.
.venv/.installed: constraints.txt pyproject.toml CMakeLists.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) scikit-build-core pybind11 ninja cmake
	$(PIP) --no-build-isolation --editable '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/revelio-fast demo

test: .venv/.installed
	$(BIN)/python -m pytest

test-slow: .venv/.installed
	$(BIN)/python -m pytest -m slow

bench: .venv/.installed
	$(BIN)/python -m bench all --json bench/results/latest.json

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' 'tests/shim/*.cpp' 'tests/shim/*.h' 'tests/amx/*.cpp' | xargs -r $(BIN)/clang-format --dry-run --Werror

clean:
	rm -rf .venv build

# make demo | test | test-slow | bench | lint: each creates .venv from constraints.txt when it is missing.
# make test-interop: the golden tests beside the other libraries, in an environment of their own, .venv-interop.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: demo test test-slow test-interop bench lint clean

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

# The other libraries go into an environment of their own: they pin versions, and bring a hundred packages.
INTEROP := .venv-interop/bin/pip install --quiet --constraint constraints.txt
.venv-interop/.installed: constraints.txt pyproject.toml CMakeLists.txt bench/peers/requirements.txt
	$(PYTHON) -m venv .venv-interop
	$(INTEROP) torch
	$(INTEROP) scikit-build-core pybind11 ninja cmake
	$(INTEROP) --no-build-isolation --editable '.[interop-tests]'
	$(INTEROP) --no-deps --requirement bench/peers/requirements.txt
	touch $@

test-interop: .venv-interop/.installed
	.venv-interop/bin/python -m pytest tests/interop

bench: .venv/.installed
	$(BIN)/python -m bench all --json bench/results/latest.json

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' 'tests/shim/*.cpp' 'tests/shim/*.h' 'tests/amx/*.cpp' | xargs -r $(BIN)/clang-format --dry-run --Werror

clean:
	rm -rf .venv .venv-interop build

"""The op tests on kernels built with AddressSanitizer and UBSan: the CPU's, and CUDA's in the host shim (slow)."""

import os
import subprocess
import sys

import pytest

from tests.amx import EmulatorError, build_emulator
from tests.cmake_build import ROOT, configure, run

# The extension of the build folder instead of the installed one, then pytest in the same process.
RUN = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("revelio_fast._C", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["revelio_fast._C"] = module
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def library(name: str) -> str:
    """Path of a compiler's run-time library."""
    path = subprocess.run([os.environ.get("CXX", "g++"), f"-print-file-name={name}"], capture_output=True, text=True)
    if path.returncode or not os.path.isabs(path.stdout.strip()):
        pytest.skip(f"this compiler has no {name}")
    return path.stdout.strip()


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    build = tmp_path_factory.mktemp("sanitized")
    configure(build, "-DREVELIO_SANITIZE=ON")
    run("cmake", "--build", build, "--parallel", "2")
    return next(build.glob("_C*.so"))


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["", "amx", "avx512", "avx2", "baseline"])
def test_the_op_tests_are_clean_under_asan_and_ubsan(extension, isa, tmp_path):
    environment = os.environ | {
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter and torch keep memory until the process ends
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    if isa:
        environment["REVELIO_ISA"] = isa
    if isa == "amx":  # its emulator asks AddressSanitizer about the memory of every tile
        try:
            environment["LD_PRELOAD"] += f" {build_emulator(tmp_path)}"
        except EmulatorError as error:
            pytest.skip(str(error))
    kernels, others = "(cpu or screen or few or native)", "not (torch or contract or compile or isa or sanitizers)"
    command = [
        sys.executable,
        "-c",
        RUN,
        str(extension),
        "-q",
        "-s",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:faulthandler",  # takes the signal that the emulator needs
        "-k",
        f"{kernels} and {others}",
        *(["tests/ops/test_topk_screen.py", "tests/ops/test_topk_encode.py"] if isa == "amx" else ["tests/ops"]),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=560)
    if isa and "this processor does not have it" in done.stdout + done.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "runtime error" not in done.stderr and "AddressSanitizer" not in done.stderr
    assert " passed" in done.stdout


@pytest.mark.slow
def test_the_cuda_kernels_are_clean_under_asan_and_ubsan():
    environment = os.environ | {
        "REVELIO_SHIM_SANITIZE": "1",
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
        # fibers leave and enter stacks in ways that the fake stack does not follow
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    chosen = "cuda and not contract and not compile and not sanitizers and not mutation and not aot"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-k", chosen, "tests/ops"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=590)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "runtime error" not in done.stderr and "AddressSanitizer" not in done.stderr
    assert " passed" in done.stdout

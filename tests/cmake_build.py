"""The shipped CMakeLists.txt, configured into a folder of a test's own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command that must succeed prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def configure(build: Path, *options: str) -> None:
    """CMake's first step for the CPU kernels alone; skips where a tool is missing."""
    pybind11 = pytest.importorskip("pybind11")
    if not shutil.which("cmake"):
        pytest.skip("cmake is not installed")
    found = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    run("cmake", "-S", ROOT, "-B", build, "-DREVELIO_CUDA=OFF", *found, *options)

"""compute-sanitizer, where it is installed, over the parity checks at small sizes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from revelio_fast.gpu_check.findings import Finding

TOOLS = ("memcheck", "racecheck", "synccheck")
FOUND_ERRORS = 42  # exit code that tells the sanitizer's errors from the checks' own


def find() -> str | None:
    """The program: on the PATH, in a CUDA toolkit, or from the package nvidia-cuda-sanitizer-api."""
    places = [Path(os.environ.get(name, "/usr/local/cuda")) / "bin" for name in ("CUDA_HOME", "CUDA_PATH")]
    places += [Path(folder) / "nvidia" / "cu13" / "bin" for folder in sys.path]
    return shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(map(str, places))
    )


def sanitize(seconds: float = 900) -> Iterator[Finding]:
    """Run each tool in a process of its own; nothing where the program is missing."""
    program = find()
    for tool in TOOLS if program else ():
        command = [program, "--tool", tool, "--error-exitcode", str(FOUND_ERRORS)]
        yield _run(tool, [*command, sys.executable, "-m", "revelio_fast.gpu_check"], seconds)


def _run(tool: str, command: list, seconds: float) -> Finding:
    what = f"compute-sanitizer {tool}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(what, "triton, cuda", False, str(error).splitlines()[0])
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode == FOUND_ERRORS:
        words = next((line for line in lines if "Error" in line or "Race" in line or "Invalid" in line), lines[-1])
        return Finding(what, "triton, cuda", False, words.strip("= "))
    if done.returncode:
        return Finding(
            what, "triton, cuda", False, f"exit code {done.returncode}: {lines[-1] if lines else 'no output'}"
        )
    return Finding(what, "triton, cuda", True, "no errors")

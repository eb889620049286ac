"""Registers, spills and shared memory of every CUDA kernel, as ptxas reports them.

``python -m tests.shim.resources`` prints them.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.shim import CSRC

ARCHITECTURES = (80, 86, 89, 90, 100, 120)  # as in CMakeLists.txt


class Resources(NamedTuple):
    """What one kernel takes on one architecture."""

    kernel: str
    architecture: int
    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int


def nvcc() -> str | None:
    """Path of the compiler, where there is one."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def name_of(symbol: str) -> str:
    """`sweep<4>` from a mangled name: namespace, file and hash, then length, name and template argument."""
    found = re.search(r"_cu_[0-9a-f]{8}(\d+)([a-z_]+?)(?:ILi(\d+)EEEv|E)", symbol)
    if found is None:
        return symbol
    return found.group(2) + (f"<{found.group(3)}>" if found.group(3) else "")


def resources(source: Path) -> list[Resources]:
    """Compile `source` for every architecture."""
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc() or "nvcc", "-std=c++17", "-O3", "-fmad=false", "-Xptxas", "-v", f"-I{CSRC}", *targets]
        command += ["-c", str(source), "-o", str(Path(folder) / "kernel.o")]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{source.name} does not compile:\n{run.stderr[-3000:]}")
    return [resources_of(entry) for entry in run.stderr.split("Compiling entry function ")[1:]]


def resources_of(entry: str) -> Resources:
    """Read what ptxas says of one kernel."""

    def number(pattern: str) -> int:
        found = re.search(pattern, entry)
        return int(found.group(1)) if found else 0

    symbol, architecture = entry.split("'")[1], number(r"for 'sm_(\d+)")
    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    stack, shared = number(r"(\d+) bytes stack frame"), number(r"(\d+) bytes smem")
    return Resources(name_of(symbol), architecture, number(r"Used (\d+) registers"), spilled, stack, shared)


if __name__ == "__main__":
    print("| file | kernel | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " | static shared | spills |")
    print("|---|---" + "|---" * len(ARCHITECTURES) + "|---|---|")
    for path in sorted((CSRC / "cuda").glob("*.cu")):
        found: dict[str, dict[int, Resources]] = {}
        for row in resources(path):
            found.setdefault(row.kernel, {})[row.architecture] = row
        for kernel, rows in sorted(found.items()):
            cells = [str(rows[a].registers) for a in ARCHITECTURES]
            shared = max(row.shared_bytes for row in rows.values())
            spills = sum(row.spilled_bytes for row in rows.values())
            print(f"| `{path.name}` | `{kernel}` | {' | '.join(cells)} | {shared} | {spills} |")

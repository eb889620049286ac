"""Faults put into the CUDA kernels one at a time: every barrier removed, and slips of the hand a test must see.

``python -m tests.shim.mutations`` tries all and prints what survives.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.shim import CSRC

ROOT = CSRC.parent
TESTS = {
    "invert_code.cu": "invert or sort or entries",
    "latent_gradients.cuh": "backward or adam or halves",
    "sparse_backward.cu": "backward or halves",
    "adam_unit_norm_step.cu": "adam or shadow",
    "top_activations_update.cu": "top",
    "launch.cuh": "device",
}


# What stands before a barrier whose absence the shim cannot see: two shuffles follow it. On a GPU these do not order
# global memory, which the shim does not buffer.
UNSEEN = "ids[target] = id;\n    }"


class Mutation(NamedTuple):
    """`old` at offset `at` of csrc/cuda/`file` becomes `new`."""

    file: str
    at: int
    old: str
    new: str

    def __str__(self) -> str:
        line = (CSRC / "cuda" / self.file).read_text()[: self.at].count("\n") + 1
        return f"{self.file}:{line} {self.old} -> {self.new or 'nothing'}"


SLIPS = [
    ("invert_code.cu", "& ((1u << lane) - 1)", "& ((2u << lane) - 1)"),
    ("invert_code.cu", "index >= 0 && index < p.n", "index < p.n"),
    ("invert_code.cu", "before + sum - count;", "before + sum;"),
    ("invert_code.cu", "for (int w = 0; w < warp; ++w) place", "for (int w = 0; w + 1 < warp; ++w) place"),
    ("invert_code.cu", "keys[middle] < j", "keys[middle] <= j"),
    ("latent_gradients.cuh", "slot >= p.k - p.k_aux", "slot > p.k - p.k_aux"),
    ("latent_gradients.cuh", "last = end / CHUNK;", "last = end / CHUNK + 1;"),
    ("latent_gradients.cuh", "(begin + CHUNK - 1) / CHUNK, last", "begin / CHUNK, last"),
    ("latent_gradients.cuh", "w.chunk_sums[c * 2 + 1]};", "0};"),
    ("latent_gradients.cuh", "p.relu && !(value > 0)", "p.relu && value < -1"),
    ("latent_gradients.cuh", "sum -= w.b_pre_rows", "sum += w.b_pre_rows"),
    ("latent_gradients.cuh", "b += PARTS", "b += PARTS + 1"),
    ("sparse_backward.cu", "p.relu && !(p.values[at] > 0)", "p.relu && false"),
    ("adam_unit_norm_step.cu", "-sums.along", "sums.along"),
    ("adam_unit_norm_step.cu", "bits + 0x7FFF + (bits >> 16 & 1)", "bits + 0x8000"),
    ("adam_unit_norm_step.cu", "parts[j % 2]", "parts[0]"),
    ("adam_unit_norm_step.cu", "two_rows <= MOST_SHARED", "two_rows <= 2 * MOST_SHARED"),
    (
        "adam_unit_norm_step.cu",
        "shadow.residuals[j] = sqrtf(squares.residual)",
        "shadow.residuals[j] = squares.residual",
    ),
    ("top_activations_update.cu", "value == other && id < other_id", "value == other && id > other_id"),
    ("top_activations_update.cu", "if (same) freed", "if (false) freed"),
    ("top_activations_update.cu", "start >= target / WARP * WARP", "start > target / WARP * WARP"),
    ("launch.cuh", 'check(cudaSetDevice(device), "cudaSetDevice", device);', ""),
]


def mutations() -> Iterator[Mutation]:
    """Every barrier of every kernel, then the slips."""
    for path in sorted((CSRC / "cuda").glob("*.cu*")):
        for found in re.finditer(r"__sync(threads|warp)\(\);", path.read_text()):
            if not path.read_text()[: found.start()].rstrip().endswith(UNSEEN):
                yield Mutation(path.name, found.start(), found.group(), "")
    for file, old, new in SLIPS:
        text = (CSRC / "cuda" / file).read_text()
        if text.count(old) != 1:
            raise ValueError(f"{file} must hold {old!r} once, it is there {text.count(old)} times")
        yield Mutation(file, text.index(old), old, new)


def survives(mutation: Mutation) -> bool:
    """Whether the schedule tests of the kernel pass with the fault in it."""
    with tempfile.TemporaryDirectory() as folder:
        csrc = Path(folder) / "csrc"
        shutil.copytree(CSRC, csrc)
        path = csrc / "cuda" / mutation.file
        text, end = path.read_text(), mutation.at + len(mutation.old)
        path.write_text(text[: mutation.at] + mutation.new + text[end:])
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        command += ["tests/ops/test_cuda_schedules.py", "-k", TESTS[mutation.file]]
        environment = os.environ | {"REVELIO_SHIM_CSRC": str(csrc), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    if "does not compile" in run.stdout or run.returncode not in (0, 1, -11, -6):
        raise RuntimeError(f"{mutation}: the tests did not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return run.returncode == 0


if __name__ == "__main__":
    results = []
    for fault in mutations():
        results.append(survives(fault))
        print("SURVIVES" if results[-1] else "found   ", fault, flush=True)
    print(f"{results.count(False)} of {len(results)} found")
    sys.exit(any(results))

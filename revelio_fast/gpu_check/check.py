"""`check_gpu`: everything that can only be known on a real GPU, in one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

from revelio_fast.gpu_check import capture, parity, problems, sanitizer, timing
from revelio_fast.gpu_check.findings import Finding
from revelio_fast.ops.dispatch import BackendError


def check_gpu(echo: Callable[[str], None] = print, *, quick: bool = False) -> dict[str, Any]:
    """Run parity, CUDA graphs, compute-sanitizer and timings on the current CUDA device, and say each as it comes.

    Parameters
    ----------
    echo : callable
        Takes each line of the report.
    quick : bool
        Small shapes only, no sanitizer and no timings.

    Returns
    -------
    dict
        ``device``, ``failed`` (a number), ``findings``, ``timings``: lists of dicts, ready for JSON.

    Raises
    ------
    BackendError
        On a machine without a CUDA device.
    """
    if not torch.cuda.is_available():
        raise BackendError("there is no CUDA device on this machine, so there is nothing to check: run it on one")
    echo(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    findings = run_checks(echo, "cuda", problems.SMALL if quick else problems.FULL)
    rows: list[timing.Timing] = []
    if not quick:
        for finding in sanitizer.sanitize():
            findings.append(finding)
            echo(str(finding))
        if sanitizer.find() is None:
            echo("no compute-sanitizer here: it comes with a CUDA toolkit, or pip install nvidia-cuda-sanitizer-api")
        rows = timing.timings("cuda", timing.PAPER)
        echo(f"\n{timing.PAPER}\n\n{timing.table(rows)}")
    count = Counter(finding.passed for finding in findings)
    echo(f"\n{count[True]} checks passed, {count[False]} failed, {count[None]} cannot run here")
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "failed": count[False],
        "findings": [finding._asdict() for finding in findings],
        "timings": [row._asdict() for row in rows],
    }


def run_checks(
    echo: Callable[[str], None], device: str, shapes: tuple[problems.Shape, ...], cuda: Any = torch.cuda
) -> list[Finding]:
    """Parity of every backend, then CUDA graphs, on `device`; `cuda` is ``torch.cuda`` or its stand-in in tests."""
    findings = []
    graphs = (finding for shape in shapes[1:4] for finding in capture.capture(device, shape, cuda))
    for finding in chain(parity.parity(device, ("torch", "triton", "cuda"), shapes), graphs):
        findings.append(finding)
        echo(str(finding))
    return findings

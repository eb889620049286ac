"""Interleaved timing of several ways to do the same work, and the stamp of machine, versions and commit."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Variant = Callable[[], Tensor]


def compare(what: str, shape: str, variants: dict[str, Variant], repeats: int) -> list[dict[str, Any]]:
    """Run all variants in turn, `repeats` times after one warm-up; the first one is the reference of the ratios.

    Each variant returns a tensor by which its result is compared with the first one's.
    """
    results = {name: run().double() for name, run in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    reference = next(iter(variants))
    scale = results[reference].abs().max().clamp_min(1e-30)
    base = statistics.median(times[reference])
    return [
        {
            "what": what,
            "impl": name,
            "shape": shape,
            "median_s": statistics.median(times[name]),
            "min_s": min(times[name]),
            "ratio": base / statistics.median(times[name]),
            "max_rel_err": ((results[name] - results[reference]).abs().max() / scale).item(),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        for name in variants
    ]


def stamp(repeats: int) -> dict[str, Any]:
    """What the figures hold for: machine, load before the run, versions, threads, commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": _isa(),
        "load_before": os.getloadavg()[0],
        "busy_before": busy_share(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
        "repeats": repeats,
    }


def busy_share(seconds: float = 1.0) -> float:
    """Share of all cores' time that others use just now."""

    def read() -> tuple[int, int]:
        with open("/proc/stat") as file:
            numbers = [int(value) for value in file.readline().split()[1:]]
        return sum(numbers), numbers[3] + numbers[4]

    if not os.path.exists("/proc/stat"):
        return float("nan")
    (total, idle), _ = read(), time.sleep(seconds)
    later_total, later_idle = read()
    return 1 - (later_idle - idle) / max(1, later_total - total)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _isa() -> str:
    try:
        from revelio_fast import _C
    except ImportError:
        return "not built"
    return _C.isa()

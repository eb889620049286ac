"""Interleaved timing of several ways to do the same work, and the stamp of machine, versions and commit."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Variant = Callable[[], Tensor]


REFERENCE = "revelio_fast torch"


def compare(what: str, shape: str, variants: dict[str, Variant], repeats: int) -> list[dict[str, Any]]:
    """Run all variants in turn, `repeats` times after a warm-up; ratios are over the first one and over `REFERENCE`.

    Each variant returns a tensor by which its result is compared with the first one's. Peak memory is the process's
    largest resident size during one more run of that variant, and by how much it rose above the size before.
    """
    results = {name: run().double() for name, run in variants.items()}
    memory = {}
    for name, run in variants.items():
        before = reset_peak()
        run()
        peak = _status("VmHWM")
        memory[name] = {"peak_mb": peak, "added_mb": peak - before}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(variants))
    scale = results[first].abs().max().clamp_min(1e-30)
    return [
        {
            "what": what,
            "impl": name,
            "shape": shape,
            "median_s": median[name],
            "min_s": min(times[name]),
            "max_s": max(times[name]),
            "ratio": median[first] / median[name],
            "ratio_reference": median[REFERENCE] / median[name] if REFERENCE in median else None,
            "max_rel_err": ((results[name] - results[first]).abs().max() / scale).item(),
            **memory[name],
        }
        for name in variants
    ]


def reset_peak() -> float:
    """Give freed memory back and let the kernel count the largest resident size anew; return the present one."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def _status(field: str) -> float:
    """A size of this process in MB, from /proc/self/status; NaN where there is none."""
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(field + ":")).split()[1]) / 1024
    return float("nan")


def stamp(repeats: int) -> dict[str, Any]:
    """What the figures hold for: machine, load before the run, versions, threads, commit."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
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

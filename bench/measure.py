"""Interleaved timing of several ways to do the same work, and the stamp of machine, versions and commit."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.limits import Work, measure_limits, median_of_both, share_of_limit
from revelio_fast.store.memory import available_memory

Variant = Callable[[], Tensor]
REFERENCE = "revelio_fast torch"


class Missing(ImportError):
    """A way to do the work that cannot run here; the message says why."""


class Lazy:
    """A way to do the work that its first call builds: one that is left out costs nothing."""

    def __init__(self, build: Callable[[], Variant]) -> None:
        self._build = build
        self._run: Variant | None = None

    def __call__(self) -> Tensor:
        if self._run is None:
            self._run = self._build()
        return self._run()


def compare(
    what: str,
    shape: str,
    variants: Mapping[str, Variant],
    repeats: int,
    *,
    works: Mapping[str, Work] | None = None,
    limits: dict[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Run all variants in turn, `repeats` times after a warm-up; ratios are over the first one and over `REFERENCE`.

    Each variant returns a tensor by which its result is compared with the first one's. Peak memory is the process's
    largest resident size during one more run of that variant, and by how much it rose above the size before. A variant
    that raises `Missing` gives a row that says so.

    Parameters
    ----------
    works : mapping, optional
        Least work by variant, for `share_of_limit` (see limits.py).
    limits : dict, optional
        Receives the limits measured just before and just after the repeats, the median of both.
    """
    results, missing = _warmed_up(variants)
    memory = {}
    for name in results:
        before = reset_peak()
        variants[name]()
        peak = _status("VmHWM")
        memory[name] = {"peak_mb": peak, "added_mb": peak - before}
    times: dict[str, list[float]] = {name: [] for name in results}
    before_work = measure_limits() if limits is not None else {}
    for _ in range(repeats):
        for name in results:
            start = time.perf_counter()
            variants[name]()
            times[name].append(time.perf_counter() - start)
    if limits is not None:
        limits.update(median_of_both(before_work, measure_limits()))
    median = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(results), "")
    rows = []
    for name in variants:
        row: dict[str, Any] = {"what": what, "impl": name, "shape": shape}
        if name in missing:
            rows.append(row | {"missing": missing[name]})
            continue
        rows.append(
            row
            | {
                "median_s": median[name],
                "min_s": min(times[name]),
                "max_s": max(times[name]),
                "ratio": median[first] / median[name],
                "ratio_reference": median[REFERENCE] / median[name] if REFERENCE in median else None,
                "share_of_limit": share_of_limit((works or {}).get(name), limits or {}, median[name]),
                "max_rel_err": relative_difference(results[name], results[first]),
                **memory[name],
            }
        )
    return rows


def _warmed_up(variants: Mapping[str, Variant]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Results of those that run, and the reason for each of those that do not."""
    results, missing = {}, {}
    for name, run in variants.items():
        try:
            results[name] = run().double()
        except Missing as error:
            missing[name] = str(error)
    return results, missing


def relative_difference(result: Tensor, first: Tensor) -> float:
    """Largest difference, over the largest element of the first."""
    return ((result - first).abs().max() / first.abs().max().clamp_min(1e-30)).item()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` of it; raises `Missing` where there is no C++ compiler to do so."""
    if not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise Missing("torch.compile needs a C++ compiler, and neither g++ nor clang++ is there")
    return torch.compile(function)


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


def free_gb() -> float:
    """Memory that can still be had."""
    return available_memory() / 2**30


def warn_of_memory(what: str, B: int, d: int, n: int, ways: int) -> None:
    """Say so where so many ways to do the work may need more memory than is free.

    A rough upper guess: weights, gradients and moments of all, and four ``[B, n]`` matrices of the one that runs.
    """
    matrices = {"step": 8, "sweep": 8, "encode": 2}.get(what, 1)  # [n, d] each
    needed, free = (ways * matrices * n * d + 4 * B * n) * 4 / 2**30, free_gb()
    if needed > free:
        print(f"warning: up to {needed:.0f} GB needed, {free:.0f} GB free: name fewer with --only", file=sys.stderr)


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


def warn_if_busy(about: Mapping[str, Any]) -> None:
    """Say so where the stamp found others at work."""
    if about["busy_before"] > 0.1:
        print(f"warning: {about['busy_before']:.0%} of the machine is busy; figures will be off", file=sys.stderr)


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Stamp and rows of a bench, in a folder that is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


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

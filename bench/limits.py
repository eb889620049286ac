"""What this machine can do at most, measured beside the work, and which share of it a run reached.

Limits are named as in csrc/bench/limits.h: units as bits-registers ("int8-avx512"), in operations a second, two a
multiply-add; the streams "read" and "update" (read and written in place), in bytes a second; "cycles" of a core. The
least work of a run is given in the same names; what is only written counts as "update".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

Work = Mapping[str, float]
STREAMS = ("read", "update")


def last_level_cache() -> int:
    """Bytes; 32 MiB where the system does not say."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().rstrip("K\n")) * 1024
    except (OSError, ValueError):
        return 2**25


def measure_limits(seconds: float = 0.15) -> dict[str, float]:
    """All limits of this machine with as many threads as torch has; empty where they are not built.

    Streams run over eight times the last-level cache, so that it holds next to nothing of the pass before.
    """
    try:
        from revelio_fast import _limits
    except ImportError:
        return {}
    threads, size = torch.get_num_threads(), 8 * last_level_cache()
    return {name: _limits.limit(name, seconds, threads, 0, size)[0] for name in _limits.limit_names()}


def median_of_both(before: Work, after: Work) -> dict[str, float]:
    """Of the limits measured before and after the work."""
    return {name: (before[name] + after[name]) / 2 for name in before}


def share_of_limit(work: Work | None, limits: Work, seconds: float) -> float | None:
    """Least time of the work at the limits, one part after another, over the time taken.

    None where a limit is unknown, and for bytes alone that caches could hold: memory does not bound those.
    """
    if not work or not set(work) <= set(limits):
        return None
    if set(work) <= set(STREAMS) and sum(work.values()) < 4 * last_level_cache():
        return None
    return sum(amount / limits[name] for name, amount in work.items()) / seconds


def fastest_unit(bits: str) -> str:
    """The widest unit of this processor for "float32", "int8" or "bf16"; float32's where there is none."""
    from revelio_fast import _limits

    names = _limits.limit_names()
    return next((name for name in reversed(names) if name.startswith(f"{bits}-")), None) or fastest_unit("float32")


def unit_of_ours(precision: str, B: int, d: int, n: int, k: int) -> str:
    """The unit by which `topk_encode` on the CPU does most of its work, with the instruction set in use."""
    from revelio_fast import _C
    from revelio_fast.ops.topk_encode.cpu import screen_for

    isa = _C.isa()
    registers = "avx512" if isa == "avx512bf16" else isa
    screen = screen_for(precision, B, d, n, k)
    bits = "" if screen == "few" else screen  # that one scores in float32, or in bf16 for "bf16"
    if precision == "bf16" and "bf16" in _C.screens():
        bits = "bf16"
    if not bits and registers == "amx":
        registers = "avx512"
    return f"{bits or 'float32'}-{registers}"

"""How much memory this process may still take, and whether a store is held in it."""

from __future__ import annotations

import os

SHARE = 3


def available_memory() -> int:
    """Bytes that can be used without swapping, the page cache included where the system tells."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fits_in_memory(size: int) -> bool:
    """Whether data of `size` bytes is to be held: it takes at most a third of the memory that is free now."""
    return size <= available_memory() // SHARE

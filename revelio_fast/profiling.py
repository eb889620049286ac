"""Named ranges for Nsight: through the nvtx package where it is installed, else nothing."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

try:
    import nvtx
except ImportError:
    nvtx = None


def nvtx_range(name: str) -> AbstractContextManager[Any]:
    """A context manager that marks `name` on the timeline of a profiler."""
    return contextlib.nullcontext() if nvtx is None else nvtx.annotate(name, domain="revelio_fast")

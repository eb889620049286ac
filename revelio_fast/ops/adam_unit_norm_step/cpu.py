"""adam_unit_norm_step_ by csrc/cpu/adam_unit_norm_step.cpp."""

from typing import Any

from revelio_fast.ops import shadow
from revelio_fast.ops.cpu_runtime import load, threads


def adam_unit_norm_step_(**arguments: Any) -> None:
    """Arguments by name as in reference.py; the kernel takes them under these names."""
    (B, k), (n, d) = arguments["values"].shape, arguments["W_dec"].shape
    load().adam_unit_norm_step(**arguments, B=B, k=k, n=n, d=d, threads=threads())
    shadow.refresh_(*(arguments[name] for name in ("W_enc", "shadow_weights", "shadow_norms", "shadow_residuals")))

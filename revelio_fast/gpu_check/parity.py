"""Every op by every backend against float64, and against the reference bit for bit where arithmetic is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from revelio_fast.gpu_check import backward, forward
from revelio_fast.gpu_check.findings import Finding
from revelio_fast.gpu_check.forward import Check
from revelio_fast.gpu_check.problems import Problem, Shape, problem
from revelio_fast.ops import dispatch

CHECKS: dict[str, Callable[[Problem, str], Check]] = {
    "topk_encode": forward.encode,
    "sparse_decode": forward.decode,
    "sparse_residual": forward.residual,
    "invert_code": forward.invert,
    "sparse_backward": backward.gradients,
    "decode_backward": backward.of_decoding,
    "encode_backward": backward.of_encoding,
    "adam_unit_norm_step_": backward.optimiser,
    "top_activations_update_": forward.top,
}


def parity(device: str, backends: tuple[str, ...], shapes: tuple[Shape, ...]) -> Iterator[Finding]:
    """Run every check of every op by those of `backends` that have it, on tensors of `device`."""
    reasons = {(status.op, status.backend): status.reason for status in dispatch.backends()}
    for op, check in CHECKS.items():
        for backend in backends:
            if (op, backend) not in reasons:
                continue
            if reason := reasons[op, backend]:
                yield Finding(op, backend, None, reason)
            else:
                yield from (_finding(op, check, backend, device, shape) for shape in shapes)


def _finding(op: str, check: Callable[[Problem, str], Check], backend: str, device: str, shape: Shape) -> Finding:
    what, worst, share, compared = f"{op} {shape}", "every bit equal", 0.0, 0
    try:
        for integers in (False, True):
            for name, error, allowed in check(problem(shape, device, integers=integers), backend):
                compared += 1
                if not error <= allowed:
                    kind = "integers" if integers else "Gaussian data"
                    words = f"{name} is off by {error:.3g}, allowed {allowed:.3g} ({kind})"
                    return Finding(what, backend, False, words)
                if error and error / allowed > share:
                    worst, share = f"{name} off by {error:.1e} of {allowed:.1e}", error / allowed
    except Exception as error:  # whatever a driver raises is a finding, and the other checks still run
        return Finding(what, backend, False, f"{type(error).__name__}: {error}")
    return Finding(what, backend, compared > 0, worst if compared else "nothing was compared")

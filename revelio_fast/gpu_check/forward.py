"""Checks of the ops that go forward: encode, decode, residual, inverse, top activations."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.gpu_check.problems import Problem, bound, dense64, differing, off

Check = Iterator[tuple[str, float, float]]  # what was compared, the largest error, the largest allowed


def encode(p: Problem, backend: str) -> Check:
    """Largest scores in float64; order; ties, NaN and infinities as the reference ranks them."""
    integers = bool((p.x == p.x.round()).all())
    shadow = ops.EncoderShadow.of(p.W_enc)
    for precision in ("fp32", "fast", "bf16"):
        for held in (None, shadow):
            label = f"{precision}{' with a shadow' if held else ''}"
            with ops.use_backend(backend):
                code = ops.topk_encode(*p.encoder, precision=precision, shadow=held)
                again = ops.topk_encode(*p.encoder, precision=precision, shadow=held)
            if backend != "torch":  # whose products may be cut differently from run to run
                yield f"{label}, a second run", differing(again, code), 0.0
            if integers:
                with ops.use_backend("torch"):
                    yield f"{label}, ties", differing(code, ops.topk_encode(*p.encoder, precision=precision)), 0.0
                continue
            centred, weights = p.x - p.b_pre, p.W_enc
            if precision == "bf16":
                centred, weights = centred.bfloat16(), weights.bfloat16()
            scores = centred.double() @ weights.double().T + p.b_enc.double()
            size = centred.double().abs() @ weights.double().abs().T + p.b_enc.double().abs()
            allowed = bound(p.shape.d, size)
            kept = scores.gather(1, code.indices)
            yield f"{label}, values", off(code.values, kept), allowed
            left_out = scores.scatter(1, code.indices, -torch.inf).amax(1)
            yield f"{label}, a winner left out", (left_out - kept.amin(1)).clamp(min=0).max().item(), 2 * allowed
            yield f"{label}, order", float((code.values.diff(dim=1) > 0).sum()), 0.0
            yield f"{label}, repeated latents", float((code.indices.sort(1).values.diff(dim=1) == 0).sum()), 0.0
    strange = p.b_enc.clone()
    strange[::3], strange[1::5], strange[2::7] = -torch.inf, torch.inf, torch.nan
    for name, x, b_enc in (("NaN row", torch.full_like(p.x, torch.nan), p.b_enc), ("infinite biases", p.x, strange)):
        codes = []
        for by in (backend, "torch"):
            with ops.use_backend(by):
                codes.append(ops.topk_encode(x, p.W_enc, b_enc, p.b_pre, p.shape.k))
        finite = codes[1].values.isfinite()
        yield f"{name}, latents", float(((codes[0].indices != codes[1].indices) & ~finite).sum()), 0.0


def decode(p: Problem, backend: str) -> Check:
    """A dense float64 product."""
    z = dense64(p.code, p.shape.n)
    with ops.use_backend(backend):
        x_hat = ops.sparse_decode(p.code, p.W_dec, p.b_pre)
        again = ops.sparse_decode(p.code, p.W_dec, p.b_pre)
    yield "x_hat", off(x_hat, z @ p.W_dec.double() + p.b_pre.double()), bound(p.shape.k + 1, _decoded_size(p, z))
    yield "a second run", differing((again,), (x_hat,)), 0.0


def residual(p: Problem, backend: str) -> Check:
    """A dense float64 product, minus x; the squares are those of the residual as it was rounded."""
    z = dense64(p.code, p.shape.n)
    with ops.use_backend(backend):
        got = ops.sparse_residual(p.code, p.W_dec, p.b_pre, p.x)
        again = ops.sparse_residual(p.code, p.W_dec, p.b_pre, p.x)
    want = z @ p.W_dec.double() + p.b_pre.double() - p.x.double()
    yield "residual", off(got.residual, want), bound(p.shape.k + 2, _decoded_size(p, z) + p.x.double().abs())
    squares = got.residual.double().square().sum(1)
    yield "squares", off(got.squares, squares), bound(p.shape.d, squares)
    yield "a second run", differing(again, got), 0.0


def _decoded_size(p: Problem, z: Tensor) -> Tensor:
    return z.abs() @ p.W_dec.double().abs() + p.b_pre.double().abs()


def invert(p: Problem, backend: str) -> Check:
    """The reference's stable order, entry for entry."""
    found = []
    for by in (backend, "torch"):
        with ops.use_backend(by):
            found.append(ops.invert_code(p.code, p.shape.n))
    yield "entries", differing(found[0], found[1]), 0.0


def top(p: Problem, backend: str) -> Check:
    """Two batches into an empty state; places and counts as the reference has them."""
    B, _, n, _ = p.shape
    states = []
    for by in (backend, "torch"):
        state = ops.TopState.empty(n, 4, p.x.device)
        with ops.use_backend(by):
            for batch in range(2):
                ids = torch.arange(B, device=p.x.device) * (1 + batch) // 2  # some images come again
                ops.top_activations_update_(state, ops.Code(p.code.values.roll(batch, 0), p.code.indices), ids)
        states.append(state)
    got, want = states
    yield "values and ids", differing((got.values, got.image_ids), (want.values, want.image_ids)), 0.0
    yield "counts", differing((got.counts,), (want.counts,)), 0.0
    yield "sums", off(got.sums, want.sums), 2 * B * 2.0**-52 * max(1.0, want.sums.max().item())

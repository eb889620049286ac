"""Backward pass and optimiser alone, for a given code and gradient: one sweep against dense gradients and Adam."""

from functools import partial
from typing import Any

import pytest
import torch

from bench.limits import Work
from bench.measure import Lazy, compare
from bench.problems import Inputs, Shape, dense_code, inputs
from revelio_fast import ops
from revelio_fast.ops import invert_code

LR = 1e-4
ASLEEP = (0.5, 0.9)  # shares of latents that no step has used yet
SETTLING = 6  # sweeps after which unit norm leaves nearly all such rows as they are
SHOWN = 256  # decoder rows by which results are compared


def dense_sweep(p: Inputs, shape: Shape):
    """Dense codes and gradients, projection, torch's fused Adam, unit norm: the equations of the authors' step."""
    W_enc, W_dec, b_enc, b_pre = (t.clone().requires_grad_() for t in (p.W_enc, p.W_dec, p.b_enc, p.b_pre))
    optimiser = torch.optim.Adam([W_enc, W_dec, b_enc, b_pre], lr=LR, fused=True)

    @torch.no_grad()
    def run():
        W_dec.grad = dense_code(p).T @ p.grad
        dvalues = (p.grad @ W_dec.T).gather(1, p.code.indices)
        dpre = torch.zeros(shape.B, shape.n).scatter_(1, p.code.indices, dvalues)
        W_enc.grad, b_enc.grad = dpre.T @ (p.x - b_pre), dpre.sum(0)
        b_pre.grad = p.grad.sum(0) - b_enc.grad @ W_enc
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        optimiser.step()
        W_dec.div_(W_dec.norm(dim=1, keepdim=True))
        return W_dec[:SHOWN].clone()

    return run


def one_sweep(p: Inputs, shape: Shape, backend: str, *, marks: bool = False, steps: int = 0):
    """`adam_unit_norm_step_` on a state that has taken so many steps, with or without marks of latents to skip."""
    rows = ops.AdamRows.start(*(t.clone() for t in (p.W_enc, p.W_dec, p.b_enc, p.b_pre)))
    skip_mask = torch.zeros(shape.n, dtype=torch.uint8) if marks else None
    inverse, taken = invert_code(p.code, shape.n), [0]

    def run():
        taken[0] += 1
        with ops.use_backend(backend):
            ops.adam_unit_norm_step_(
                rows, p.x, p.code, p.grad, step=taken[0], lr=LR, inverse=inverse, skip_mask=skip_mask
            )
        return rows.W_dec[:SHOWN].clone()

    for _ in range(steps):
        run()
    return run


def variants(p: Inputs, shape: Shape) -> dict:
    """Name -> the first decoder rows after the step."""
    return {
        "torch dense gradients, fused Adam": Lazy(partial(dense_sweep, p, shape)),
        "revelio_fast cpu": Lazy(partial(one_sweep, p, shape, "cpu")),
        "revelio_fast torch": Lazy(partial(one_sweep, p, shape, "torch")),
    }


def least_bytes(shape: Shape) -> Work:
    """Parameters and both moments read and written; x and the gradient at x_hat read once, the code and its inverse."""
    B, d, n, k = shape
    return {"read": 8.0 * B * d + B * k * 28.0, "update": 2 * 6 * 4.0 * n * d}


def more(p: Inputs, shape: Shape, repeats: int) -> list[dict[str, Any]]:
    """The same with latents that were never active: with marks they are skipped, without they are looked at."""
    rows = []
    for share in ASLEEP:
        awake = torch.randperm(shape.n)[: max(shape.k, round(shape.n * (1 - share)))]
        indices = torch.stack([awake[torch.randperm(len(awake))[: shape.k]] for _ in range(shape.B)])
        some = p._replace(code=ops.Code(p.code.values, indices))
        ways = {
            name: Lazy(partial(one_sweep, some, shape, "cpu", marks=marks, steps=SETTLING))
            for name, marks in (("revelio_fast cpu", False), ("revelio_fast cpu, marks", True))
        }
        works = dict.fromkeys(ways, least_bytes(shape._replace(n=len(awake))))
        rows += compare(f"sweep, {share:.0%} asleep", str(shape), ways, repeats, works=works, limits={})
    return rows


@pytest.mark.parametrize("name", ["torch dense gradients, fused Adam", "revelio_fast cpu", "revelio_fast torch"])
def test_sweep(benchmark, name):
    shape = Shape(256, 320, 4096, 32)
    benchmark(variants(inputs(shape), shape)[name])

"""A whole training step: the fused engine against the authors' dense step, both from the same start."""

from functools import partial

import pytest
import torch

from bench.limits import Work, fastest_unit, unit_of_ours
from bench.measure import Lazy, compiled
from bench.ops import bench_sparse_residual, bench_sweep
from bench.ops.bench_topk_encode import encode_work
from bench.problems import Inputs, Shape, inputs
from revelio_fast import ops

LR = 1e-4


def dense_step(p: Inputs, shape: Shape, *, bf16: bool = False, compile: bool = False):
    """Dense scores, topk, dense decode, autograd, projection, torch Adam: as the authors' code trains.

    On request with bf16 autocast, or with torch.compile for the forward and backward pass.
    """
    W_enc = p.W_enc.T.contiguous().requires_grad_()
    W_dec, b_enc, b_pre = (t.clone().requires_grad_() for t in (p.W_dec, p.b_enc, p.b_pre))
    optimiser = torch.optim.Adam([W_enc, W_dec, b_enc, b_pre], lr=LR)

    def forward():
        scores = (p.x - b_pre) @ W_enc + b_enc
        best = scores.topk(shape.k, sorted=False)
        z = torch.zeros_like(scores).scatter(1, best.indices, best.values)
        x_hat = z @ W_dec + b_pre
        return (x_hat - p.x).square().mean() / (p.x - p.x.mean(0)).square().mean()

    loss_of = compiled(forward) if compile else forward

    def run():
        with torch.no_grad():
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of()
        loss.backward()
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        optimiser.step()
        return loss.detach().reshape(1)

    return run


def fused_step(p: Inputs, shape: Shape, backend: str):
    """The step of `train_ksae(engine="fused", compat="authors")` on the ops."""
    rows = ops.AdamRows.start(*(t.clone() for t in (p.W_enc, p.W_dec, p.b_enc, p.b_pre)))
    taken = [0]

    def run():
        with ops.use_backend(backend):
            rows.W_dec.div_(rows.W_dec.norm(dim=1, keepdim=True))
            code = ops.topk_encode(p.x, rows.W_enc, rows.b_enc, rows.b_pre, shape.k, precision="fast")
            residual, squares = ops.sparse_residual(code, rows.W_dec, rows.b_pre, p.x)
            variance = (p.x - p.x.mean(0)).square().sum()
            taken[0] += 1
            ops.adam_unit_norm_step_(rows, p.x, code, residual * (2 / variance), step=taken[0], lr=LR, unit_norm=False)
        return (squares.sum() / variance).reshape(1)

    return run


BUILDERS = {
    "torch dense step": dense_step,
    "torch bf16 autocast": partial(dense_step, bf16=True),
    "torch compile": partial(dense_step, compile=True),
    "torch compile bf16": partial(dense_step, compile=True, bf16=True),
    "revelio_fast cpu": partial(fused_step, backend="cpu"),
    "revelio_fast torch": partial(fused_step, backend="torch"),
}


def variants(p: Inputs, shape: Shape) -> dict:
    """Name -> the loss before the update."""
    return {name: Lazy(partial(build, p, shape)) for name, build in BUILDERS.items()}


def step_work(unit: str, shape: Shape) -> Work:
    """Encode at that unit, residual and sweep, one after another: the least of a step.

    More than that (dense gradients, dense codes) is an implementation's own choice.
    """
    parts = bench_sweep.least_bytes(shape), bench_sparse_residual.least_bytes(shape)
    return {stream: sum(part[stream] for part in parts) for stream in parts[0]} | encode_work(unit, shape)


def works(shape: Shape) -> dict[str, Work]:
    """Each variant's, at the unit that its encode uses."""
    units = {name: fastest_unit("bf16" if "bf16" in name else "float32") for name in BUILDERS}
    units["revelio_fast cpu"] = unit_of_ours("fast", *shape)
    return {name: step_work(unit, shape) for name, unit in units.items()}


@pytest.mark.parametrize("name", ["torch dense step", "torch bf16 autocast", "revelio_fast cpu", "revelio_fast torch"])
def test_step(benchmark, name):
    shape = Shape(256, 320, 4096, 32)
    benchmark(variants(inputs(shape), shape)[name])

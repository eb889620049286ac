"""Measured times of the ops, of a whole training step and of PyTorch's dense way, beside the model's bounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.gpu_check import model
from revelio_fast.gpu_check.problems import Problem, Shape, problem

PAPER = Shape(4096, 1280, 81_920, 32)
LR, M = 1e-4, 20
OURS = "revelio_fast"


class Job(NamedTuple):
    """What is timed, and the kernels that its time is modelled by."""

    what: str
    by: str
    run: Callable[[], Any]
    works: Callable[[model.Card], list[model.Work]]


class Timing(NamedTuple):
    """One row of the table; model times are None for an unknown card."""

    what: str
    by: str
    median_ms: float
    best_ms: float | None
    worst_ms: float | None


def timings(device: str, shape: Shape, repeats: int = 15) -> list[Timing]:
    """Run everything in turn, `repeats` times after a warm-up; the cache is flushed before each."""
    jobs = _jobs(problem(shape, device, shared=False))
    flush = torch.empty(2**28 if device == "cuda" else 1, dtype=torch.uint8, device=device)
    for job in jobs:
        job.run()
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(repeats):
        for job, own in zip(jobs, times, strict=True):
            flush.zero_()
            own.append(_seconds(job.run, device))
    card = card_of(torch.cuda.get_device_name()) if device == "cuda" else None
    return [_row(job, statistics.median(own), card) for job, own in zip(jobs, times, strict=True)]


def _row(job: Job, seconds: float, card: model.Card | None) -> Timing:
    if card is None:
        return Timing(job.what, job.by, 1e3 * seconds, None, None)
    works = job.works(card)
    best, worst = (1e3 * sum(work.seconds(card, slow) for work in works) for slow in (False, True))
    return Timing(job.what, job.by, 1e3 * seconds, best, worst)


def card_of(name: str) -> model.Card | None:
    """The card whose model number stands in a device's name."""
    for card in model.CARDS:
        if card.number in name:
            return card
    return None


def table(rows: list[Timing]) -> str:
    """The rows in Markdown; "over the model" is the measured time over the model's lower bound."""
    lines = ["| work | by | measured ms | model ms, not measured | over the model |", "|---|---|---|---|---|"]
    for row in rows:
        modelled = "- | -"
        if row.best_ms is not None:
            modelled = f"{row.best_ms:.3f} to {row.worst_ms:.3f} | {row.median_ms / row.best_ms:.1f}x"
        lines.append(f"| {row.what} | {row.by} | {row.median_ms:.3f} | {modelled} |")
    return "\n".join(lines)


def _seconds(run: Callable[[], Any], device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def _jobs(p: Problem) -> list[Job]:
    """Ours, each beside PyTorch's way of the same work."""
    B, d, n, k = p.shape
    shadow, inverse, rows = ops.EncoderShadow.of(p.W_enc), ops.invert_code(p.code, n), p.rows()
    sweep: dict[str, Any] = dict(step=1, lr=LR, inverse=inverse, shadow=shadow)
    state, ids = ops.TopState.empty(n, M, p.x.device), torch.arange(B, device=p.x.device)

    def whole_step():
        code = ops.topk_encode(p.x, rows.W_enc, rows.b_enc, rows.b_pre, k, precision="fast", shadow=shadow)
        residual, squares = ops.sparse_residual(code, rows.W_dec, rows.b_pre, p.x)
        scale = 2 / (p.x - p.x.mean(0)).square().sum()
        ops.adam_unit_norm_step_(rows, p.x, code, residual * scale, step=1, lr=LR, shadow=shadow)
        return squares

    def encode(precision: str) -> Job:
        return Job(
            f"encode, {precision}",
            OURS,
            lambda: ops.topk_encode(*p.encoder, precision=precision, shadow=shadow),
            lambda card: model.encode_work(B, d, n, k, card.capability, precision),
        )

    dense_step, adam = _dense_step(p)
    dense = model.dense_step(B, d, n, k)
    return [
        *map(encode, ("bf16", "fast", "fp32")),
        Job("encode", "cuBLAS bf16 + torch.topk", lambda: _dense_encode(p), lambda card: dense[:2]),
        Job(
            "decode, residual, loss",
            OURS,
            lambda: ops.sparse_residual(p.code, p.W_dec, p.b_pre, p.x),
            lambda card: [model.residual_work(B, d, n, k)],
        ),
        Job("inverse of the code", OURS, lambda: ops.invert_code(p.code, n), lambda card: [model.invert_work(B, k, n)]),
        Job(
            "backward and optimiser",
            OURS,
            lambda: ops.adam_unit_norm_step_(rows, p.x, p.code, p.grad, **sweep),
            lambda card: [model.sweep_work(B, d, n, k)],
        ),
        Job("optimiser alone", "torch.optim.Adam, fused", adam, lambda card: [dense[-2]]),
        Job(
            f"top {M} images per latent",
            OURS,
            lambda: ops.top_activations_update_(state, p.code, ids, inverse=inverse),
            lambda card: [model.top_work(B, n, k, M)],
        ),
        Job("whole training step", OURS, whole_step, lambda card: model.our_step(B, d, n, k, card.capability)),
        Job("whole training step", "PyTorch, dense, bf16 autocast", dense_step, lambda card: dense),
    ]


def _dense_encode(p: Problem) -> Tensor:
    with torch.autocast(p.x.device.type, dtype=torch.bfloat16):
        return torch.nn.functional.linear(p.x - p.b_pre, p.W_enc, p.b_enc).topk(p.shape.k).values


def _dense_step(p: Problem) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The authors' step under bfloat16 autocast with fused Adam, and Adam alone."""
    W_enc, W_dec, b_enc, b_pre = leaves = [t.clone().requires_grad_() for t in (p.W_enc, p.W_dec, p.b_enc, p.b_pre)]
    optimiser = torch.optim.Adam(leaves, lr=LR, fused=True)

    def step():
        optimiser.zero_grad()
        with torch.autocast(p.x.device.type, dtype=torch.bfloat16):
            scores = torch.nn.functional.linear(p.x - b_pre, W_enc, b_enc)
            best = scores.topk(p.shape.k, sorted=False)
            z = torch.zeros_like(scores).scatter(1, best.indices, best.values)
            x_hat = z @ W_dec + b_pre
        loss = (x_hat - p.x).square().mean() / (p.x - p.x.mean(0)).square().mean()
        loss.backward()
        with torch.no_grad():
            grad = W_dec.grad
            assert grad is not None, "backward() reached no decoder row"
            grad -= (grad * W_dec).sum(1, keepdim=True) * W_dec
            optimiser.step()
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))
        return loss

    step()
    return step, optimiser.step

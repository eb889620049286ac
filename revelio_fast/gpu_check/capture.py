"""CUDA graphs: each op and whole training steps, captured, replayed on other inputs, and compared with eager runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.cuda_graph import capture_graph, warm_up_on_side_stream
from revelio_fast.gpu_check.findings import Finding
from revelio_fast.gpu_check.problems import Problem, Shape, differing, problem
from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.state import TrainingState
from revelio_fast.ksae.stepper import Stepper
from revelio_fast.ops import dispatch

STEPS = 8

Outputs = tuple[Tensor, ...]


def capture(device: str, shape: Shape, cuda: Any = torch.cuda) -> Iterator[Finding]:
    """Try every graph on `device`; `cuda` is ``torch.cuda``, or what stands for it in tests."""
    first, second = problem(shape, device), problem(shape, device, seed=1)
    for name, run in _jobs(shape).items():
        yield _tried(f"{name} captured, {shape}", partial(_replay, cuda, run, _tensors(first), _tensors(second)))
    what = f"{STEPS} training steps captured, {shape}"
    if dispatch.chosen("adam_unit_norm_step_", device) == "torch":
        yield Finding(
            what, "torch", None, "the reference's sums on a GPU differ from run to run: build revelio_fast._cuda"
        )
    else:
        yield _tried(what, partial(_train, cuda, device, shape))


def _tried(what: str, count: Callable[[], float]) -> Finding:
    try:
        wrong = count()
    except Exception as error:  # a refused capture is a finding, and the other checks still run
        return Finding(what, "chosen", False, f"{type(error).__name__}: {error}")
    words = "the bits of an eager run" if not wrong else f"{wrong:.0f} elements differ from an eager run"
    return Finding(what, "chosen", not wrong, words)


def _jobs(shape: Shape) -> dict[str, Callable[..., Outputs]]:
    """Name -> a run from the tensors of a problem."""

    def encode(x, W_enc, W_dec, b_enc, b_pre, values, indices) -> Outputs:
        shadow = ops.EncoderShadow.of(W_enc)
        return ops.topk_encode(x, W_enc, b_enc, b_pre, shape.k, precision="fast", shadow=shadow)

    def decode(x, W_enc, W_dec, b_enc, b_pre, values, indices) -> Outputs:
        return (ops.sparse_decode(ops.Code(values, indices), W_dec, b_pre),)

    def residual(x, W_enc, W_dec, b_enc, b_pre, values, indices) -> Outputs:
        return ops.sparse_residual(ops.Code(values, indices), W_dec, b_pre, x)

    def invert(x, W_enc, W_dec, b_enc, b_pre, values, indices) -> Outputs:
        return ops.invert_code(ops.Code(values, indices), shape.n)

    def top(x, W_enc, W_dec, b_enc, b_pre, values, indices) -> Outputs:
        state = ops.TopState.empty(shape.n, 4, x.device)
        ops.top_activations_update_(state, ops.Code(values, indices), torch.arange(shape.B, device=x.device))
        return state

    return {
        "topk_encode": encode,
        "sparse_decode": decode,
        "sparse_residual": residual,
        "invert_code": invert,
        "top_activations_update_": top,
    }


def _tensors(p: Problem) -> Outputs:
    return p.x, p.W_enc, p.W_dec, p.b_enc, p.b_pre, *p.code


def _replay(cuda: Any, run: Callable[..., Outputs], held: Outputs, fresh: Outputs) -> float:
    """Capture on `held`, replay on `fresh`: how many elements are not those of an eager run."""
    held = tuple(tensor.clone() for tensor in held)  # a replay reads where the capture did
    warm_up_on_side_stream(lambda: run(*held), held[0].device, cuda)
    graph, outputs = capture_graph(lambda: run(*held), held[0].device, cuda)
    for ours, theirs in zip(held, fresh, strict=True):
        ours.copy_(theirs)
    graph.replay()
    return differing(outputs, run(*fresh))


def _train(cuda: Any, device: str, shape: Shape) -> float:
    """How many numbers of the training state differ between captured and eager steps."""
    B, d, n, k = shape
    ends = []
    for replayed in (False, True):
        torch.manual_seed(0)
        config = KSAEConfig(k=k, n_latents=n, steps=STEPS, batch_size=B, lr=1e-3, warmup_steps=2)
        state = TrainingState(KSparseAutoencoder(d, k=k, n_latents=n).to(device))
        state.use_shadow()
        step = Stepper(state, config, 1000, cuda=cuda, capture=replayed)
        for number in range(STEPS):
            step(problem(shape, device, seed=number).x)
        ends.append(state.tensors())
    return differing(tuple(ends[1].values()), tuple(ends[0].values()))

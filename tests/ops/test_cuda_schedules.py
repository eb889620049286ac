"""The shipped CUDA kernels in the host shim: equal bits under random orders of threads and blocks, and right ones.

What the shared tests of an op leave out is here: latents that need chunks, rows too long for shared memory, lists
longer than a warp, and the very bits of torch.optim.Adam.
"""

import importlib
import os

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from revelio_fast.ops import (
    AdamRows,
    Code,
    EncoderShadow,
    TopState,
    adam_scalars,
    adam_unit_norm_step_,
    checks,
    cuda_runtime,
    dispatch,
    invert_code,
    sparse_backward,
    top_activations_update_,
    use_backend,
)
from revelio_fast.ops.sparse_backward import decode_backward, encode_backward
from tests import shim
from tests.ops.cases import assert_close, problem, random_code

SEEDS = 2 if os.environ.get("REVELIO_SHIM_SANITIZE") == "1" else 20
WEAK = 3  # of them with stores to shared memory that nobody sees before a barrier


@pytest.fixture(autouse=True)
def _on_cuda(cuda_on_host):
    with use_backend("cuda"):
        yield


def under_schedules(module, run):
    """The result of `run`, a tuple of tensors, after checking that all schedules give the same bits."""
    first = None
    for seed in range(SEEDS):
        shim.schedule(module, seed, weak=seed >= SEEDS - WEAK)
        result = run()
        first = first or result
        for place, (a, b) in enumerate(zip(first, result, strict=True)):
            same = (a.view(torch.uint8) == b.view(torch.uint8)) if a.numel() else torch.tensor(True)
            assert same.all(), f"tensor {place} differs under seed {seed}"
    return first


def heavy_code(B: int, n: int, k: int) -> Code:
    """Latent 2 in every row, latent 5 in all but one, the last fifth of the latents never used."""
    code = random_code(B, n - 3 - n // 5, k)
    code.indices.add_(3)
    code.indices[:, -1] = 2
    if k > 1:
        taken = (code.indices == 5).any(1)
        code.indices[~taken & (torch.arange(B) > 0), 0] = 5
    return code


@pytest.mark.parametrize(("B", "k", "n"), [(300, 9, 700), (0, 3, 20), (1, 1, 1), (4, 512, 512)])
def test_invert_code(cuda_on_host, B, k, n):
    code = random_code(B, n, k)
    got = under_schedules(cuda_on_host, lambda: invert_code(code, n))
    with use_backend("torch"):
        assert all(torch.equal(a, b) for a, b in zip(got, invert_code(code, n), strict=True))


def test_three_passes_of_the_sort(cuda_on_host):
    code = random_code(20, 300_000, 110)
    got = invert_code(code, 300_000)
    with use_backend("torch"):
        assert all(torch.equal(a, b) for a, b in zip(got, invert_code(code, 300_000), strict=True))


def test_entries_of_no_latent_are_sorted_to_the_end(cuda_on_host):
    """On a GPU nobody looks at the indices beforehand: a bad one must not reach outside the tensors."""
    indices = torch.tensor([[3, -28, 0, 10], [20, 3, 2**40, 1]])
    offsets, rows, slots = (torch.empty(size, dtype=torch.int64) for size in (21, 8, 8))
    space = cuda_runtime.workspace(indices, cuda_on_host.invert_code_workspace(8))
    cuda_on_host.invert_code(
        indices=indices, offsets=offsets, rows=rows, slots=slots, workspace=space, B=2, k=4, n=20, device=0, stream=0
    )
    assert offsets.tolist() == [0, 1, 2, 2, *[4] * 7, *[5] * 10]
    assert list(zip(rows.tolist(), slots.tolist(), strict=True))[:5] == [(0, 2), (1, 3), (0, 0), (1, 1), (0, 3)]


# d: one float; an odd row; two passes of a block; a row of four-float loads; two passes of those
@pytest.mark.parametrize(
    ("d", "relu", "k_aux"), [(1, False, 0), (5, True, 2), (300, True, 0), (36, False, 1), (1040, False, 0)]
)
def test_sparse_backward(cuda_on_host, d, relu, k_aux):
    B, n, k = 150, 40, 5
    p, code, grad = problem(B, d, n, k), heavy_code(B, n, k), torch.randn(B, d)
    grad_aux = torch.randn(B, d) if k_aux else None
    arguments = (p.x, code, grad, p.W_enc, p.W_dec, p.b_pre)
    options = dict(inverse=invert_code(code, n), relu=relu, need_dx=True, grad_aux=grad_aux, k_aux=k_aux)
    got = under_schedules(cuda_on_host, lambda: sparse_backward(*arguments, **options))
    with use_backend("torch"):
        want = sparse_backward(*arguments, **options)
    for name, a, b in zip(got._fields, got, want, strict=True):
        # float32 sums of at most B + d terms in two orders, each off by half of this
        scale = b.abs().max().item() + d**0.5
        assert_close(name, a, b, scale * (B + d) * 2**-22)
    assert not got.dW_dec[-8:].any() and not got.dW_enc[:2].any()


def test_an_entry_of_no_latent_has_no_effect(monkeypatch):
    """As on a GPU, where nothing is checked: the bits are those of a code in which an unused latent stands there."""
    monkeypatch.setattr(checks, "indices_in_range", lambda indices, n: None)
    B, d, n, k = 20, 12, 40, 5
    p, code, grad = problem(B, d, n, k), heavy_code(B, n, k), torch.randn(B, d)
    unused, bad = n - 1, code.indices.clone()
    code.indices[4, 1], bad[4, 1] = unused, n + 7
    want = sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, need_dx=True)
    got = sparse_backward(p.x, Code(code.values, bad), grad, p.W_enc, p.W_dec, p.b_pre, need_dx=True)
    for name in ("dW_dec", "dW_enc", "db_enc"):
        a, b = getattr(got, name), getattr(want, name)
        assert torch.equal(a[:unused], b[:unused]) and not a[unused].any(), name
    others = torch.arange(B) != 4
    assert torch.equal(got.dx[others], want.dx[others])
    taken_off = got.dx[4] + want.dvalues[4, 1] * p.W_enc[unused]
    assert_close("dx", taken_off, want.dx[4], 8 * 2**-24 * want.dx[4].abs().max().item() + 1e-6)


@pytest.mark.parametrize("d", [7, 44])
def test_the_halves_are_those_of_the_whole(cuda_on_host, d):
    B, n, k = 140, 40, 5
    p, code, grad = problem(B, d, n, k), heavy_code(B, n, k), torch.randn(B, d)
    whole = sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, need_dx=True)
    dec = under_schedules(cuda_on_host, lambda: decode_backward(grad, *code, p.W_dec))
    assert torch.equal(dec[0], whole.dW_dec) and torch.equal(dec[1], whole.dvalues)
    enc = under_schedules(cuda_on_host, lambda: encode_backward(p.x, dec[1], code.indices, p.W_enc, p.b_pre, True))
    assert torch.equal(enc[0], whole.dW_enc) and torch.equal(enc[1], whole.db_enc) and torch.equal(enc[3], whole.dx)
    # db_pre of the whole has the sum of the B gradients besides
    assert_close("db_pre", enc[2] + grad.sum(0), whole.db_pre, B * 2**-22 * whole.db_pre.abs().max().item())


def step(p, code, grad, **options):
    """One step on copies of p's rows with moments; all that it changes."""
    generator = torch.Generator().manual_seed(1)
    moments = AdamRows.start(p.W_enc.clone(), p.W_dec.clone(), p.b_enc.clone(), p.b_pre.clone())
    for tensor in moments[4:]:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * 1e-3)
    shadow = EncoderShadow.of(moments.W_enc)
    adam_unit_norm_step_(moments, p.x, code, grad, step=3, lr=1e-2, shadow=shadow, **options)
    return (*moments, *shadow)


# d: as above, then one whose rows do not fit shared memory
@pytest.mark.parametrize(
    ("d", "B", "relu", "k_aux"),
    [(1, 150, True, 2), (5, 150, False, 0), (300, 150, False, 1), (1040, 130, True, 0), (6148, 66, False, 0)],
)
def test_adam_unit_norm_step(cuda_on_host, d, B, relu, k_aux):
    n, k = 22, 5
    p, code, grad = problem(B, d, n, k), heavy_code(B, n, k), torch.randn(B, d)
    options = dict(inverse=invert_code(code, n), relu=relu, grad_aux=torch.randn(B, d) if k_aux else None, k_aux=k_aux)
    got = under_schedules(cuda_on_host, lambda: step(p, code, grad, **options))
    with use_backend("torch"):
        want = step(p, code, grad, **options)
    for name, a, b in zip((*AdamRows._fields, "weights", "norms", "residuals"), got, want, strict=True):
        # lr 1e-2 times the relative error of a gradient of B entries; where it nearly cancels, a share of lr.
        # The bfloat16 copy may round the other way: 2^-8 of the weight.
        rounding = 1e-2 * 2e-2 + (2**-8 * b.float().abs().max().item() if name in ("weights", "residuals") else 0)
        if name[:2] in ("m_", "v_"):
            rounding = (B + d) * 2**-22 * (b.abs().max().item() + d**0.5)
        assert_close(name, a, b, rounding)


def test_the_shadow_rounds_halves_to_even_and_keeps_nan(cuda_on_host):
    p, code, grad = problem(6, 12, 40, 5), heavy_code(6, 40, 5), torch.randn(6, 12)
    halves = torch.randint(0x3F00, 0x4000, (40, 12), dtype=torch.int32) << 16 | 0x8000
    rows = AdamRows.start(halves.view(torch.float32).clone(), p.W_dec, p.b_enc, p.b_pre)
    rows.W_enc[39, 3], rows.W_enc[38, 2] = torch.nan, -torch.inf
    shadow = EncoderShadow.of(torch.zeros(40, 12))
    adam_unit_norm_step_(rows, p.x, code, grad, step=1, lr=0.0, shadow=shadow)
    assert torch.equal(shadow.weights.nan_to_num(7), rows.W_enc.bfloat16().nan_to_num(7))
    assert shadow.weights[39, 3].isnan() and shadow.norms[38] == torch.inf


def test_the_step_has_the_bits_of_torch_adam(cuda_on_host):
    """Given the same gradients. Only the square root is numpy's: torch's on a CPU (MKL) may be one bit off IEEE's."""
    B, d, n, k = 70, 20, 30, 4
    p = problem(B, d, n, k)
    rows = AdamRows.start(p.W_enc.clone(), p.W_dec.clone(), p.b_enc.clone(), p.b_pre.clone())
    want = AdamRows(*(t.clone() for t in rows))
    for number in range(1, 8):
        code, grad = heavy_code(B, n, k), torch.randn(B, d)
        gradients = sparse_backward(p.x, code, grad, want.W_enc, want.W_dec, want.b_pre)
        step_size, correction = adam_scalars(number, 3e-3)
        for name, gradient in zip(("dec", "enc", "b_enc", "b_pre"), gradients, strict=False):
            m, v = getattr(want, f"m_{name}"), getattr(want, f"v_{name}")
            m.lerp_(gradient, 1 - 0.9)
            v.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
            root = torch.from_numpy(np.sqrt(v.numpy()))
            parameter = getattr(want, f"W_{name}" if name in ("enc", "dec") else name)
            parameter.addcdiv_(m, (root / correction).add_(1e-8), value=-step_size)
        adam_unit_norm_step_(rows, p.x, code, grad, step=number, lr=3e-3, project=False, unit_norm=False)
        for name, a, b in zip(AdamRows._fields, rows, want, strict=True):
            assert torch.equal(a, b), f"{name} after step {number}: {(a - b).abs().max().item():.3g}"


@pytest.mark.parametrize("m", [0, 1, 5, 70])
def test_top_activations_update(cuda_on_host, m):
    B, n, k = 150, 40, 5
    stream = []
    for batch in range(2):
        code = heavy_code(B, n, k)
        code.values[:, 1] = code.values[:, 1].round()  # ties
        code.values[3, 0] = torch.nan
        stream.append((code, (torch.arange(B) * 7 + batch * 40) % 120))  # images come again

    def run():
        state = TopState.empty(n, m)
        for code, image_ids in stream:
            top_activations_update_(state, code, image_ids)
        return state

    got = under_schedules(cuda_on_host, run)
    with use_backend("torch"):
        want = run()
    for name, a, b in zip(TopState._fields, got, want, strict=True):
        if name == "sums":  # 300 float64 additions in two orders
            assert torch.allclose(a, b, rtol=300 * 2**-52)
        else:
            assert torch.equal(a, b), name


class Recorder(TorchDispatchMode):
    """The torch operators that run inside."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_the_python_side_only_allocates(monkeypatch):
    """Nothing that would wait for the device or copy from it, so a step can be captured into a CUDA graph."""
    monkeypatch.setattr(checks, "indices_in_range", lambda indices, n: None)
    B, d, n, k = 9, 12, 40, 5
    p, code, grad = problem(B, d, n, k), heavy_code(B, n, k), torch.randn(B, d)
    rows, state = AdamRows.start(p.W_enc, p.W_dec, p.b_enc, p.b_pre), TopState.empty(n, 3)
    shadow, scalars = EncoderShadow.of(p.W_enc), torch.tensor(adam_scalars(1, 1e-3))
    images = torch.arange(B)
    inverse = invert_code(code, n)
    calls = {
        "invert_code": (code.indices, n),
        "sparse_backward": (p.x, *code, grad, p.W_enc, p.W_dec, p.b_pre, *inverse, True, True, grad, 1),
        "decode_backward": (grad, *code, p.W_dec),
        "encode_backward": (p.x, code.values, code.indices, p.W_enc, p.b_pre, True),
        "adam_unit_norm_step_": (
            *rows, p.x, *code, grad, *inverse,
            1, 1e-3, 0.9, 0.999, 1e-8, False, True, True, None, 0, *shadow, scalars, None,
        ),
        "top_activations_update_": (*state, *code, images, *inverse),
    }  # fmt: skip
    with Recorder() as recorder:
        for name, arguments in calls.items():
            op = dispatch.OPS[name]
            function = getattr(importlib.import_module(f"{op.package}.cuda"), name)
            function(**dict(zip(op.arguments, arguments, strict=True)))
    assert recorder.names <= {"aten::new_empty", "aten::empty_like", "aten::empty"} and recorder.names


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(cuda_runtime, "place", lambda tensor: {"device": 3, "stream": 0})
    with pytest.raises(RuntimeError, match="cudaSetDevice on device 3 failed: invalid device ordinal"):
        invert_code(random_code(2, 5, 2), 5)

"""Dense codes that are filled when they are read: to every operation they are the dense tensor, or stay sparse."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch

from revelio_fast import ops
from revelio_fast.interop.accelerate.lazy import LazyTensor, carried, computed_when_read, dense_code

B, N, K = 6, 20, 3


def made(lazy=True):
    """A code with a zero in it, its dense tensor and the plain tensor that it stands for."""
    values = torch.rand(B, K).sub(0.3).relu().requires_grad_()
    indices = torch.stack([torch.randperm(N)[:K] for _ in range(B)])
    plain = torch.zeros(B, N).scatter(1, indices, values)
    return values, dense_code(ops.Code(values, indices), (B, N), lazy=lazy), plain


def filled(lazy):
    return lazy._source._dense is not None


SPARSE = {
    "bool().float().sum(-2)": lambda z: z.bool().float().sum(-2),
    "bool().float().sum(0)": lambda z: z.bool().float().sum(0),
    "(z > 0).any(0)": lambda z: (z > 0).any(dim=0),
    "(z != 0).float().mean(0)": lambda z: (z != 0).float().mean(0),
    "l0 with a threshold": lambda z: torch.mean((torch.abs(z) >= 1e-6).float(), 0),
    "detach().double().sum(0)": lambda z: z.detach().double().sum(0),
    "shape, dtype, device": lambda z: torch.tensor([*z.shape, z.dtype == torch.float32, z.is_sparse, z.dim()]),
}
DENSE = {
    "arithmetic": lambda z: z * 2 + 1,
    "sum": lambda z: z.sum(),
    "sum over latents": lambda z: z.sum(1),
    "z > -1": lambda z: (z > -1).float(),
    "z >= 0": lambda z: (z >= 0).float(),
    "kept dimension": lambda z: z.sum(0, keepdim=True),
    "matmul": lambda z: z @ torch.arange(20.0).view(20, 1),
    "item": lambda z: torch.tensor(z[2, 4].item()),
    "cat": lambda z: torch.cat([z, z]),
    "where": lambda z: torch.where(z > 0.2, z, -1.0),
    "topk": lambda z: z.topk(2).values,
    "nonzero": lambda z: z.nonzero(),
    "numpy": lambda z: torch.from_numpy(z.detach().numpy()),
    "np.asarray": lambda z: torch.from_numpy(np.asarray(z.detach())),
    "tolist": lambda z: torch.tensor(z.tolist()),
    "clone": lambda z: z.clone(),
    "float64": lambda z: z.double(),
    "bfloat16": lambda z: z.bfloat16(),
    "view": lambda z: z.view(2, 3, N),
    "iteration": lambda z: torch.stack([row.max() for row in z]),
    "einsum": lambda z: torch.einsum("bn,bn->b", z, z),
    "vmap": lambda z: torch.vmap(lambda row: row * 2)(z.clone()),
    "saved": lambda z: through_a_file(z.detach()),
    "pickled": lambda z: pickle.loads(pickle.dumps(z.detach())),
}


def through_a_file(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("what", [*SPARSE, *DENSE])
@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "filled"])
def test_an_operation_gives_what_it_gives_on_the_dense_tensor(what, lazy):
    _, dense, plain = made(lazy)
    function = (SPARSE | DENSE)[what]
    found, want = function(dense), function(plain)
    assert found.dtype == want.dtype and type(found.clone()) is torch.Tensor
    torch.testing.assert_close(found, want, rtol=1e-6, atol=0, check_stride=False)
    if lazy and what in SPARSE:
        assert not filled(dense)


def test_gradients_reach_the_values():
    for function in (
        torch.sum,
        lambda z: (z * torch.arange(N)).square().sum(),
        lambda z: z.abs().mean() + z[:, 3].sum(),
    ):
        torch.manual_seed(0)
        values, dense, _ = made()
        torch.manual_seed(0)
        same, _, plain = made()
        function(dense).backward()
        function(plain).backward()
        torch.testing.assert_close(values.grad, same.grad)


def test_changes_in_place_are_seen_and_untie_the_code():
    for change in (lambda z: z.mul_(2), lambda z: z[:, 1].fill_(5), lambda z: z.index_fill_(1, torch.tensor([2]), 1.0)):
        with torch.no_grad():
            _, dense, plain = made()
            assert carried(dense) is not None
            change(dense)
            change(plain)
            assert carried(dense) is None
            assert torch.equal(dense.clone(), plain) and dense.bool().float().sum(0).equal(plain.bool().float().sum(0))


def test_a_change_of_a_detached_alias_is_a_change():
    _, dense, plain = made()
    dense.detach()[0] = 7.0
    plain.detach()[0] = 7.0
    assert carried(dense) is None and torch.equal(dense.clone(), plain)


def test_the_code_is_tied_to_the_very_tensor():
    values, dense, _ = made()
    assert carried(dense).values is values and carried(torch.nn.Identity()(dense)).values is values
    assert carried(dense.clone()) is None and carried(dense.detach()) is None and carried(torch.zeros(2)) is None


def test_what_is_computed_when_read_is_differentiable_and_computed_once():
    calls = []

    def compute(x, W):
        calls.append(1)
        return (x @ W).relu()

    x, W = torch.randn(B, 4), torch.randn(4, N, requires_grad=True)
    lazy = computed_when_read(compute, (x, W), (B, N), "it")
    assert isinstance(lazy, LazyTensor) and lazy.requires_grad and not calls
    torch.testing.assert_close(lazy + 0, compute(x, W))
    (lazy.detach().sum() + lazy.max()).item()
    assert len(calls) == 2
    (lazy * lazy).sum().backward()
    found, W.grad = W.grad, None
    compute(x, W).square().sum().backward()
    torch.testing.assert_close(found, W.grad)


def test_what_would_be_computed_from_changed_parameters_is_an_error():
    W = torch.randn(4, N, requires_grad=True)
    lazy = computed_when_read(torch.matmul, (torch.randn(B, 4), W), (B, N), "hidden_pre")
    with torch.no_grad():
        W.add_(1)
    with pytest.raises(RuntimeError, match="hidden_pre was left out of the accelerated forward pass"):
        lazy.sum()

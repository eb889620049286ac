"""sparse_decode: every backend against a dense float64 product, forward and gradients."""

import pytest
import torch

from revelio_fast.ops import Code, sparse_decode
from tests.ops.cases import SHAPES, assert_close, dense64, dot_error, problem, random_code

OP = "sparse_decode"


@pytest.mark.parametrize("shape", [*SHAPES, (0, 5, 9, 3)])
def test_matches_the_dense_product(backend, shape):
    B, _, n, k = shape
    p, code = problem(*shape), random_code(B, n, k)
    want = dense64(code, n) @ p.W_dec.double() + p.b_pre.double()
    error = dot_error(code.values, p.W_dec, k) + 2**-23 * p.b_pre.abs().max().item()
    assert_close("x_hat", sparse_decode(code, p.W_dec, p.b_pre), want, error)


def test_repeated_latents_add_up(backend):
    code = Code(torch.tensor([[2.0, 3.0, 0.0]]), torch.tensor([[1, 1, 0]]))
    W_dec = torch.tensor([[torch.inf, 1.0], [1.0, 10.0]])
    W_dec[0, 0] = 7.0
    assert torch.equal(sparse_decode(code, W_dec, torch.tensor([0.5, 0.0])), torch.tensor([[5.5, 50.0]]))


def test_nan_weights_stay_visible(backend):
    W_dec = torch.zeros(3, 2)
    W_dec[1, 0] = torch.nan
    x_hat = sparse_decode(Code(torch.ones(1, 1), torch.tensor([[1]])), W_dec, torch.zeros(2))
    assert x_hat[0, 0].isnan() and x_hat[0, 1] == 0


@pytest.mark.parametrize("shape", [(7, 33, 130, 5), (64, 96, 200, 32)])
def test_gradients_against_float64(backend, shape):
    B, d, n, k = shape
    p, code = problem(*shape), random_code(B, n, k)
    values, W_dec, b_pre = (t.clone().requires_grad_() for t in (code.values, p.W_dec, p.b_pre))
    weights = torch.randn(B, d)
    (sparse_decode(Code(values, code.indices), W_dec, b_pre) * weights).sum().backward()
    wide = [t.double().requires_grad_() for t in (code.values, p.W_dec, p.b_pre)]
    z = torch.zeros(B, n, dtype=torch.float64).scatter_add(1, code.indices, wide[0])
    ((z @ wide[1] + wide[2]) * weights.double()).sum().backward()
    assert_close("dvalues", values.grad, wide[0].grad, dot_error(weights, p.W_dec, d))
    assert_close("dW_dec", W_dec.grad, wide[1].grad, dot_error(code.values, weights, B))
    assert_close("db_pre", b_pre.grad, wide[2].grad, dot_error(torch.ones(1), weights, B))


def test_threads_and_runs_agree_bit_for_bit(backend, on_threads):
    p, code = problem(130, 65, 300, 8), random_code(130, 300, 8)
    one, two = on_threads(lambda: sparse_decode(code, p.W_dec, p.b_pre))
    assert torch.equal(one, two)
    assert torch.equal(one, sparse_decode(code, p.W_dec, p.b_pre))


def test_strided_inputs(backend):
    p, code = problem(6, 20, 90, 5), random_code(6, 90, 5)
    strided = Code(code.values.T.contiguous().T, code.indices.repeat_interleave(2, 1)[:, ::2])
    got = sparse_decode(strided, p.W_dec.T.contiguous().T, p.b_pre)
    # embedding_bag may take another path for strided weights and add in another order
    want = sparse_decode(code, p.W_dec, p.b_pre)
    assert_close("x_hat", got, want, dot_error(code.values, p.W_dec, 5) + 2**-23 * p.b_pre.abs().max().item())


def test_operator_contract(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    arguments = [t.clone().requires_grad_() for t in (code.values, p.W_dec, p.b_pre)]
    torch.library.opcheck(torch.ops.revelio_fast.sparse_decode, (arguments[0], code.indices, *arguments[1:]))


def test_compiles_without_graph_breaks(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    compiled = torch.compile(lambda *a: sparse_decode(Code(*a[:2]), *a[2:]) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*code, p.W_dec, p.b_pre), sparse_decode(code, p.W_dec, p.b_pre) + 1)


@pytest.mark.parametrize("bad", [-1, 20, 2**40])
def test_a_latent_out_of_range_is_named(backend, bad):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    code.indices[2, 1] = bad
    with pytest.raises(ValueError, match=rf"\[0, 20\), got {bad}"):
        sparse_decode(code, p.W_dec, p.b_pre)


def test_wrong_arguments_are_named():
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    with pytest.raises(ValueError, match=r"code.indices must be torch.int64, got torch.int32"):
        sparse_decode(Code(code.values, code.indices.int()), p.W_dec, p.b_pre)
    with pytest.raises(ValueError, match=r"code.indices must have shape \[4, 3\], got \[4, 2\]"):
        sparse_decode(Code(code.values, code.indices[:, :2]), p.W_dec, p.b_pre)
    with pytest.raises(ValueError, match=r"b_pre must have shape \[8\], got \[7\]"):
        sparse_decode(code, p.W_dec, p.b_pre[:7])

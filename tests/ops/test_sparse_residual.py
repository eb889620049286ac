"""sparse_residual: every backend against a dense float64 product, forward and gradients."""

import pytest
import torch

from revelio_fast.ops import Code, sparse_decode, sparse_residual
from tests.ops.cases import SHAPES, assert_close, dense64, dot_error, problem, random_code

OP = "sparse_residual"


def rounding(p, code) -> float:
    """Bound on the error of an element of the residual: k products added, then b_pre and x."""
    last = p.b_pre.abs().max().item() + p.x.abs().max().item()
    return dot_error(code.values, p.W_dec, code.values.shape[1]) + 3 * 2**-24 * last


@pytest.mark.parametrize("shape", [*SHAPES, (3, 257, 40, 9)])
def test_matches_the_dense_product(backend, shape):
    B, d, n, k = shape
    p, code = problem(*shape), random_code(B, n, k)
    got = sparse_residual(code, p.W_dec, p.b_pre, p.x)
    want = dense64(code, n) @ p.W_dec.double() + p.b_pre.double() - p.x.double()
    assert_close("residual", got.residual, want, rounding(p, code))
    # of the residual as it was rounded: d squares of float32 added, each sum rounded once
    squares = got.residual.double().square().sum(1)
    assert_close("squares", got.squares, squares, (d + 1) * 2**-24 * squares.max().item())


def test_no_rows(backend):
    p, code = problem(0, 5, 9, 3), random_code(0, 9, 3)
    got = sparse_residual(code, p.W_dec, p.b_pre, p.x)
    assert got.residual.shape == (0, 5) and got.squares.shape == (0,)


def test_a_perfect_reconstruction_leaves_nothing(backend):
    p, code = problem(6, 300, 40, 4, integers=True), random_code(6, 40, 4)
    code.values.round_()
    got = sparse_residual(code, p.W_dec, p.b_pre, sparse_decode(code, p.W_dec, p.b_pre))
    assert not got.residual.any() and not got.squares.any()


def test_repeated_latents_add_up(backend):
    code = Code(torch.tensor([[2.0, 3.0, 0.0]]), torch.tensor([[1, 1, 0]]))
    W_dec = torch.tensor([[7.0, 1.0], [1.0, 10.0]])
    got = sparse_residual(code, W_dec, torch.tensor([0.5, 0.0]), torch.tensor([[1.0, 48.0]]))
    assert torch.equal(got.residual, torch.tensor([[4.5, 2.0]])) and got.squares.item() == 24.25


def test_nan_stays_in_its_row(backend):
    p, code = problem(3, 40, 20, 2), random_code(3, 20, 2)
    p.x[1, 7] = torch.nan
    got = sparse_residual(code, p.W_dec, p.b_pre, p.x)
    assert got.residual.isnan().nonzero().tolist() == [[1, 7]] and got.squares.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("used", ["residual", "squares", "both"])
def test_gradients_against_float64(backend, used):
    B, d, n, k = 7, 33, 130, 5
    p, code = problem(B, d, n, k), random_code(B, n, k)
    of_residual, of_squares = torch.randn(B, d), torch.randn(B)
    of_residual *= used != "squares"
    of_squares *= used != "residual"
    leaves = [t.clone().requires_grad_() for t in (code.values, p.W_dec, p.b_pre, p.x)]
    got = sparse_residual(Code(leaves[0], code.indices), *leaves[1:])
    terms = {"residual": (got.residual * of_residual).sum(), "squares": (got.squares * of_squares).sum()}
    sum(terms.values() if used == "both" else [terms[used]]).backward()

    wide = [t.double().requires_grad_() for t in (code.values, p.W_dec, p.b_pre, p.x)]
    z = torch.zeros(B, n, dtype=torch.float64).scatter_add(1, code.indices, wide[0])
    want = z @ wide[1] + wide[2] - wide[3]
    ((want * of_residual.double()).sum() + (want.square().sum(1) * of_squares.double()).sum()).backward()

    # the gradient at the residual: the float32 residual's error doubled and scaled, and two roundings of its own
    grad = wide[3].grad.float().abs()
    scale = 2 * rounding(p, code) * of_squares.abs().max().item() + 3 * 2**-24 * grad.max().item()
    assert_close("dx", leaves[3].grad, wide[3].grad, scale)
    for name, leaf, exact, other, length in (
        ("dvalues", leaves[0], wide[0], p.W_dec, d),
        ("dW_dec", leaves[1], wide[1], code.values, B),
        ("db_pre", leaves[2], wide[2], torch.ones(1), B),
    ):
        carried = length * other.abs().max().item() * scale
        assert_close(name, leaf.grad, exact.grad, carried + dot_error(grad, other, length))


def test_no_gradient_of_what_needs_none(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    W_dec = p.W_dec.clone().requires_grad_()
    got = sparse_residual(code, W_dec, p.b_pre, p.x)
    got.squares.sum().backward()
    assert W_dec.grad.any() and p.x.grad is None


def test_threads_and_runs_agree_bit_for_bit(backend, on_threads):
    p, code = problem(70, 165, 300, 8), random_code(70, 300, 8)
    one, two = on_threads(lambda: sparse_residual(code, p.W_dec, p.b_pre, p.x))
    assert torch.equal(one.residual, two.residual) and torch.equal(one.squares, two.squares)


def test_strided_inputs(backend):
    p, code = problem(6, 20, 90, 5), random_code(6, 90, 5)
    strided = Code(code.values.T.contiguous().T, code.indices.repeat_interleave(2, 1)[:, ::2])
    got = sparse_residual(strided, p.W_dec.T.contiguous().T, p.b_pre, p.x.T.contiguous().T)
    want = sparse_residual(code, p.W_dec, p.b_pre, p.x)
    # embedding_bag may take another path for strided weights and add in another order
    assert_close("residual", got.residual, want.residual, 2 * rounding(p, code))


def test_operator_contract(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    values, *rest = (t.clone().requires_grad_() for t in (code.values, p.W_dec, p.b_pre, p.x))
    torch.library.opcheck(torch.ops.revelio_fast.sparse_residual, (values, code.indices, *rest))


def test_compiles_without_graph_breaks(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    compiled = torch.compile(
        lambda *a: sparse_residual(Code(*a[:2]), *a[2:]).squares + 1, fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(*code, p.W_dec, p.b_pre, p.x), sparse_residual(code, p.W_dec, p.b_pre, p.x).squares + 1)


@pytest.mark.parametrize("bad", [-1, 20, 2**40])
def test_a_latent_out_of_range_is_named(backend, bad):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    code.indices[2, 1] = bad
    with pytest.raises(ValueError, match=rf"\[0, 20\), got {bad}"):
        sparse_residual(code, p.W_dec, p.b_pre, p.x)


def test_wrong_arguments_are_named():
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    with pytest.raises(ValueError, match=r"x must have shape \[4, 8\], got \[3, 8\]"):
        sparse_residual(code, p.W_dec, p.b_pre, p.x[:3])
    with pytest.raises(ValueError, match=r"x must be torch.float32, got torch.float64"):
        sparse_residual(code, p.W_dec, p.b_pre, p.x.double())
    with pytest.raises(ValueError, match=r"b_pre must have shape \[8\], got \[7\]"):
        sparse_residual(code, p.W_dec, p.b_pre[:7], p.x)

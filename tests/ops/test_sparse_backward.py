"""sparse_backward: every backend against float64 autograd through the dense model."""

import pytest
import torch

from revelio_fast.ops import Code, invert_code, sparse_backward
from tests.ops.cases import SHAPES, assert_close, problem, random_code

OP = "sparse_backward"


def by_autograd(p, code, grad_x_hat, relu, grad_aux, k_aux):
    """Gradients of <grad_x_hat, x_hat> + <grad_aux, x_aux> with the model in dense float64."""
    x, W_enc, W_dec, b_pre = (t.double().requires_grad_() for t in (p.x, p.W_enc, p.W_dec, p.b_pre))
    b_enc = p.b_enc.double().requires_grad_()
    scores = ((x - b_pre) @ W_enc.T + b_enc).gather(1, code.indices)
    # The code's own values enter the decoder, the scores only carry the gradient.
    mask = code.values > 0 if relu else torch.ones_like(code.values)
    values = code.values.double() + (scores - scores.detach()) * mask
    values.retain_grad()
    n, main = W_dec.shape[0], values.shape[1] - k_aux

    def decode(slots):
        z = torch.zeros(x.shape[0], n, dtype=torch.float64)
        return z.scatter_add(1, code.indices[:, slots], values[:, slots]) @ W_dec

    loss = ((decode(slice(0, main)) + b_pre) * grad_x_hat.double()).sum()
    if k_aux:
        loss = loss + (decode(slice(main, None)) * grad_aux.double()).sum()
    loss.backward()
    return {
        "dW_dec": W_dec.grad, "dW_enc": W_enc.grad, "db_enc": b_enc.grad, "db_pre": b_pre.grad,
        "dvalues": values.grad, "dx": x.grad,
    }  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("aux", [False, True])
def test_every_gradient(backend, shape, relu, aux):
    B, d, n, k = shape
    k_aux = k // 2 if aux else 0
    p, code, grad = problem(*shape), random_code(B, n, k), torch.randn(B, d)
    grad_aux = torch.randn(B, d) if k_aux else None
    got = sparse_backward(
        p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, relu=relu, need_dx=True, grad_aux=grad_aux, k_aux=k_aux
    )
    for name, want in by_autograd(p, code, grad, relu, grad_aux, k_aux).items():
        # Each entry sums at most B k d products; rounding grows at worst like their number times eps.
        scale = want.abs().max().item() + d**0.5
        assert_close(name, getattr(got, name), want, scale * (B * k + d) * 2**-22)


def test_dx_only_on_request(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    assert sparse_backward(p.x, code, torch.randn(4, 8), p.W_enc, p.W_dec, p.b_pre).dx is None


def test_unused_latents_get_exact_zeros(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 5, 3)
    got = sparse_backward(p.x, code, torch.randn(4, 8), p.W_enc, p.W_dec, p.b_pre)
    assert not got.dW_dec[5:].any() and not got.dW_enc[5:].any() and not got.db_enc[5:].any()


def test_no_rows(backend):
    p, code = problem(0, 8, 20, 3), random_code(0, 20, 3)
    got = sparse_backward(p.x, code, torch.randn(0, 8), p.W_enc, p.W_dec, p.b_pre, need_dx=True)
    assert not got.dW_dec.any() and not got.db_pre.any() and got.dx.shape == (0, 8)


def test_threads_and_runs_agree_bit_for_bit(backend, on_threads):
    p, code, grad = problem(130, 65, 90, 8), random_code(130, 90, 8), torch.randn(130, 65)
    inverse = invert_code(code, 90)

    def run():
        return sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, inverse=inverse, need_dx=True)

    one, two = on_threads(run)
    for name, a, b, c in zip(one._fields, one, two, run(), strict=True):
        if backend == "cpu" or name != "db_pre":  # torch cuts db_enc @ W_enc by threads
            assert torch.equal(a, b) and torch.equal(b, c), name


def test_operator_contract(backend):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    arguments = (p.x, *code, torch.randn(4, 8), p.W_enc, p.W_dec, p.b_pre, *invert_code(code, 20))
    torch.library.opcheck(torch.ops.revelio_fast.sparse_backward, (*arguments, False, True, None, 0))
    torch.library.opcheck(torch.ops.revelio_fast.sparse_backward, (*arguments, True, False, torch.randn(4, 8), 1))
    torch.library.opcheck(torch.ops.revelio_fast.decode_backward, (torch.randn(4, 8), *code, p.W_dec))
    for need_dx in (False, True):
        encoding = (p.x, *code, p.W_enc, p.b_pre, need_dx)
        torch.library.opcheck(torch.ops.revelio_fast.encode_backward, encoding)


def test_compiles_without_graph_breaks(backend):
    p, code, grad = problem(4, 8, 20, 3), random_code(4, 20, 3), torch.randn(4, 8)

    def run(x, values, indices, grad):
        return sparse_backward(x, Code(values, indices), grad, p.W_enc, p.W_dec, p.b_pre).dW_dec + 1

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(p.x, *code, grad), run(p.x, *code, grad))


def test_wrong_arguments_are_named(backend):
    p, code, grad = problem(4, 8, 20, 3), random_code(4, 20, 3), torch.randn(4, 8)
    with pytest.raises(ValueError, match=r"grad_x_hat must have shape \[4, 8\], got \[3, 8\]"):
        sparse_backward(p.x, code, grad[:3], p.W_enc, p.W_dec, p.b_pre)
    with pytest.raises(ValueError, match=r"k_aux must lie between 0 and k - 1 = 2, got 3"):
        sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, grad_aux=grad, k_aux=3)
    with pytest.raises(ValueError, match=r"grad_aux and k_aux come together"):
        sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre, k_aux=1)
    code.indices[0, 0] = 20
    with pytest.raises(ValueError, match=r"\[0, 20\), got 20"):
        sparse_backward(p.x, code, grad, p.W_enc, p.W_dec, p.b_pre)

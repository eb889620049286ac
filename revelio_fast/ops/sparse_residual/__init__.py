"""`sparse_residual`: reconstruction, its error and the sum of squares of each row's error, in one pass."""

from typing import NamedTuple

from torch import Tensor

from revelio_fast.ops import checks, dispatch
from revelio_fast.ops.codes import Code
from revelio_fast.ops.sparse_backward import decode_backward
from revelio_fast.ops.sparse_residual import reference


class Residual(NamedTuple):
    """What a reconstruction misses.

    Attributes
    ----------
    residual : Tensor
        ``[B, d]`` float32, ``x_hat - x``.
    squares : Tensor
        ``[B]`` float32, the sum of squares of each row of `residual`.
    """

    residual: Tensor
    squares: Tensor


def sparse_residual(code: Code, W_dec: Tensor, b_pre: Tensor, x: Tensor) -> Residual:
    """Compute ``sparse_decode(code, W_dec, b_pre) - x`` and what a squared loss needs of it, without storing x_hat.

    ``squares.sum()`` over the variance of `x` is the fraction of variance unexplained, and ``residual`` times a
    constant its gradient at x_hat. Differentiable in the values of the code, `W_dec`, `b_pre` and `x`.

    Parameters
    ----------
    code : Code
        ``[B, k]`` values and indices. Repeated indices within a row add up.
    W_dec : Tensor
        ``[n, d]`` float32, one row per latent.
    b_pre : Tensor
        ``[d]`` float32, added to every row.
    x : Tensor
        ``[B, d]`` float32, what the code stands for.

    Returns
    -------
    Residual

    Raises
    ------
    ValueError
        For a wrong shape, dtype or device, or (on the CPU) an index outside ``[0, n)``.
    """
    values, indices = checks.code(*code)
    checks.tensor("W_dec", W_dec, ("n", "d"))
    checks.tensor("b_pre", b_pre, (W_dec.shape[1],))
    checks.tensor("x", x, (values.shape[0], W_dec.shape[1]))
    checks.same_device(W_dec=W_dec, values=values, indices=indices, b_pre=b_pre, x=x)
    return Residual(*_sparse_residual(values, indices, W_dec, b_pre, x))


_sparse_residual = dispatch.custom_op(reference.sparse_residual, cuda="triton")


@_sparse_residual.register_fake
def _(values, indices, W_dec, b_pre, x):
    return W_dec.new_empty(values.shape[0], W_dec.shape[1]), W_dec.new_empty(values.shape[0])


def _setup_context(ctx, inputs, output):
    values, indices, W_dec, _, _ = inputs
    ctx.save_for_backward(values, indices, W_dec, output[0])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_residual, grad_squares):
    values, indices, W_dec, residual = ctx.saved_tensors
    grad = grad_residual
    if grad_squares is not None:
        of_squares = residual * (2 * grad_squares[:, None])
        grad = of_squares if grad is None else grad + of_squares
    if grad is None:
        return None, None, None, None, None
    grad = grad.contiguous()
    dW_dec, dvalues = decode_backward(grad, values, indices, W_dec)
    return dvalues, None, dW_dec, grad.sum(0), -grad if ctx.needs_input_grad[4] else None


_sparse_residual.register_autograd(_backward, setup_context=_setup_context)

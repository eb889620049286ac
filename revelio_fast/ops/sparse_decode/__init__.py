"""`sparse_decode`: rebuild the features from their code, one weighted sum of k decoder rows per row."""

from torch import Tensor

from revelio_fast.ops import checks, dispatch
from revelio_fast.ops.codes import Code
from revelio_fast.ops.sparse_backward import decode_backward
from revelio_fast.ops.sparse_decode import reference


def sparse_decode(code: Code, W_dec: Tensor, b_pre: Tensor) -> Tensor:
    """Compute ``x_hat = W_dec^T z + b_pre`` from the k entries of z (Revelio, Eq. 4).

    Differentiable in the values of the code, `W_dec` and `b_pre`.

    Parameters
    ----------
    code : Code
        ``[B, k]`` values and indices. Repeated indices within a row add up.
    W_dec : Tensor
        ``[n, d]`` float32, one row per latent.
    b_pre : Tensor
        ``[d]`` float32, added to every row.

    Returns
    -------
    Tensor
        ``[B, d]`` float32.

    Raises
    ------
    ValueError
        For a wrong shape, dtype or device, or (on the CPU) an index outside ``[0, n)``.
    """
    values, indices = checks.code(*code)
    checks.tensor("W_dec", W_dec, ("n", "d"))
    checks.tensor("b_pre", b_pre, (W_dec.shape[1],))
    checks.same_device(W_dec=W_dec, values=values, indices=indices, b_pre=b_pre)
    return _sparse_decode(values, indices, W_dec, b_pre)


_sparse_decode = dispatch.custom_op(reference.sparse_decode, cuda="triton")


@_sparse_decode.register_fake
def _(values, indices, W_dec, b_pre):
    return W_dec.new_empty(values.shape[0], W_dec.shape[1])


def _setup_context(ctx, inputs, output):
    values, indices, W_dec, _ = inputs
    ctx.save_for_backward(values, indices, W_dec)


def _backward(ctx, grad):
    values, indices, W_dec = ctx.saved_tensors
    grad = grad.contiguous()
    dW_dec, dvalues = decode_backward(grad, values, indices, W_dec)
    return dvalues, None, dW_dec, grad.sum(0)


_sparse_decode.register_autograd(_backward, setup_context=_setup_context)

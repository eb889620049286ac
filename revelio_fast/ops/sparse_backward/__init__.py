"""`sparse_backward`: every gradient of a sparse autoencoder step, without a [B k, d] intermediate.

`decode_backward` and `encode_backward` are its two halves: the autograd of `sparse_decode` and of `topk_encode`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.ops import checks, dispatch
from revelio_fast.ops.codes import Code, InverseCode
from revelio_fast.ops.invert_code import invert_code
from revelio_fast.ops.sparse_backward import reference


class SparseGradients(NamedTuple):
    """Gradients of a loss of x_hat; `dvalues` is the gradient of the code's values, before any ReLU mask."""

    dW_dec: Tensor
    dW_enc: Tensor
    db_enc: Tensor
    db_pre: Tensor
    dvalues: Tensor
    dx: Tensor | None


def sparse_backward(
    x: Tensor,
    code: Code,
    grad_x_hat: Tensor,
    W_enc: Tensor,
    W_dec: Tensor,
    b_pre: Tensor,
    *,
    inverse: InverseCode | None = None,
    relu: bool = False,
    need_dx: bool = False,
    grad_aux: Tensor | None = None,
    k_aux: int = 0,
) -> SparseGradients:
    """Gradients of ``loss(sparse_decode(topk_encode(x)))``, given the gradient of the loss at x_hat.

    With the AuxK loss (Gao et al. 2024) the last `k_aux` slots of every row belong to a second reconstruction (of the
    residual, without ``b_pre``), whose gradient is `grad_aux`.

    Parameters
    ----------
    x : Tensor
        ``[B, d]`` float32 features.
    code : Code
        ``[B, k]`` as `topk_encode` returned it (with the auxiliary slots appended, if any).
    grad_x_hat : Tensor
        ``[B, d]`` float32.
    W_enc, W_dec : Tensor
        ``[n, d]`` float32.
    b_pre : Tensor
        ``[d]`` float32.
    inverse : InverseCode, optional
        ``invert_code(code, n)``, where it is already there.
    relu : bool
        The code was made with ``relu=True``: values that are not positive pass no gradient to the encoder.
    need_dx : bool
        Also compute the gradient of the encoder's input.
    grad_aux : Tensor, optional
        ``[B, d]`` float32.
    k_aux : int
        Number of auxiliary slots, ``0 <= k_aux < k``.

    Returns
    -------
    SparseGradients

    Raises
    ------
    ValueError
        For a wrong shape, dtype or device.
    """
    values, indices = check_backward(x, code, grad_x_hat, W_enc, W_dec, b_pre, grad_aux, k_aux)
    inverse = inverse if inverse is not None else invert_code(code, W_enc.shape[0])
    checks.inverse(*inverse, W_enc.shape[0], code.indices.numel())
    dW_dec, dW_enc, db_enc, db_pre, dvalues, dx = _sparse_backward(
        x, values, indices, grad_x_hat, W_enc, W_dec, b_pre, *inverse, relu, need_dx, grad_aux, k_aux
    )
    return SparseGradients(dW_dec, dW_enc, db_enc, db_pre, dvalues, dx if need_dx else None)


def check_backward(x, code, grad_x_hat, W_enc, W_dec, b_pre, grad_aux, k_aux) -> tuple[Tensor, Tensor]:
    """Check the arguments shared by `sparse_backward` and `adam_unit_norm_step_`; return values and indices."""
    checks.tensor("W_enc", W_enc, ("n", "d"))
    n, d = W_enc.shape
    checks.tensor("W_dec", W_dec, (n, d))
    checks.tensor("b_pre", b_pre, (d,))
    checks.tensor("x", x, ("B", d))
    values, indices = checks.code(code[0], code[1], x.shape[0])
    checks.tensor("grad_x_hat", grad_x_hat, tuple(x.shape))
    checks.in_range("k_aux", k_aux, 0, values.shape[1] - 1, "k - 1")
    if (grad_aux is None) != (k_aux == 0):
        raise ValueError(f"grad_aux and k_aux come together, got k_aux={k_aux} and grad_aux={type(grad_aux).__name__}")
    if grad_aux is not None:
        checks.tensor("grad_aux", grad_aux, tuple(x.shape))
    checks.same_device(W_enc=W_enc, W_dec=W_dec, b_pre=b_pre, x=x, values=values, grad_x_hat=grad_x_hat)
    return values, indices


_sparse_backward = dispatch.custom_op(reference.sparse_backward, cuda="cuda")
decode_backward = dispatch.custom_op(reference.decode_backward, cuda="cuda", internal=True)
encode_backward = dispatch.custom_op(reference.encode_backward, cuda="cuda", internal=True)


@_sparse_backward.register_fake
def _(x, values, indices, grad_x_hat, W_enc, W_dec, b_pre, offsets, rows, slots, relu, need_dx, grad_aux, k_aux):
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    n, d = W_dec.shape
    return W_dec.new_empty(n, d), W_dec.new_empty(n, d), x.new_empty(n), x.new_empty(d), torch.empty_like(values), dx


@decode_backward.register_fake
def _(grad, values, indices, W_dec):
    return W_dec.new_empty(W_dec.shape), torch.empty_like(values)


@encode_backward.register_fake
def _(x, grad_values, indices, W_enc, b_pre, need_dx):
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    return W_enc.new_empty(W_enc.shape), x.new_empty(W_enc.shape[0]), x.new_empty(x.shape[1]), dx

"""`topk_encode`: the k largest pre-activations of each row, without the [B, n] matrix of all of them."""

import torch
from torch import Tensor

from revelio_fast.ops import checks, dispatch
from revelio_fast.ops.codes import Code
from revelio_fast.ops.shadow import EncoderShadow, checked
from revelio_fast.ops.sparse_backward import encode_backward
from revelio_fast.ops.topk_encode import reference

PRECISIONS = ("fp32", "fast", "bf16")


def topk_encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    b_pre: Tensor,
    k: int,
    *,
    relu: bool = False,
    precision: str = "fp32",
    shadow: EncoderShadow | None = None,
) -> Code:
    """Keep the k largest pre-activations ``W_enc (x - b_pre) + b_enc`` of each row (Revelio, Eq. 3).

    Differentiable in `x`, `W_enc`, `b_enc` and `b_pre`; the choice of latents is treated as constant.

    Parameters
    ----------
    x : Tensor
        ``[B, d]`` float32 features.
    W_enc : Tensor
        ``[n, d]`` float32, one row per latent.
    b_enc : Tensor
        ``[n]`` float32.
    b_pre : Tensor
        ``[d]`` float32, subtracted from every row.
    k : int
        Latents kept per row, ``1 <= k <= n``.
    relu : bool
        Clamp the kept values at zero. Clamped entries stay in the code with value 0 and get no gradient.
    precision : {"fp32", "fast", "bf16"}
        What is promised. "fp32": the top k of float32 scores. "fast": the same values, float32-exact, chosen after a
        coarser screen that misses a winner with negligible, bounded probability. "bf16": the top k of the scores of
        bfloat16-rounded ``x - b_pre`` and `W_enc`, accumulated in float32.
    shadow : EncoderShadow, optional
        That of this very `W_enc`: saves a GPU making one. A stale shadow gives wrong results.

    Returns
    -------
    Code
        Largest first, the lower latent first among equals. NaN counts as the largest value, as in `torch.topk`.

    Raises
    ------
    ValueError
        For a wrong shape, dtype, device, k or precision.
    """
    checks.tensor("W_enc", W_enc, ("n", "d"))
    n, d = W_enc.shape
    checks.tensor("x", x, ("B", d))
    checks.tensor("b_enc", b_enc, (n,))
    checks.tensor("b_pre", b_pre, (d,))
    checks.same_device(x=x, W_enc=W_enc, b_enc=b_enc, b_pre=b_pre)
    checks.in_range("k", k, 1, n, "the number of latents")
    checks.choice("precision", precision, PRECISIONS)
    return Code(*_topk_encode(x, W_enc, b_enc, b_pre, k, relu, precision, *checked(shadow, n, d, W_enc.device)))


_topk_encode = dispatch.custom_op(reference.topk_encode, cuda="triton")


@_topk_encode.register_fake
def _(x, W_enc, b_enc, b_pre, k, relu, precision, *shadow):
    return x.new_empty(x.shape[0], k), x.new_empty(x.shape[0], k, dtype=torch.int64)


def _setup_context(ctx, inputs, output):
    x, W_enc, _, b_pre, _, relu, *_ = inputs
    values, indices = output
    ctx.mark_non_differentiable(indices)
    ctx.save_for_backward(x, W_enc, b_pre, values, indices)
    ctx.relu = relu


def _backward(ctx, grad_values, _):
    x, W_enc, b_pre, values, indices = ctx.saved_tensors
    if ctx.relu:
        grad_values = grad_values * (values > 0)
    dW_enc, db_enc, db_pre, dx = encode_backward(
        x, grad_values.contiguous(), indices, W_enc, b_pre, ctx.needs_input_grad[0]
    )
    return dx if ctx.needs_input_grad[0] else None, dW_enc, db_enc, db_pre, *[None] * 6


_topk_encode.register_autograd(_backward, setup_context=_setup_context)

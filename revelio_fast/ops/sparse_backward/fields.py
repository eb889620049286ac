"""The fields of SparseBackward (csrc/params/sparse_backward.h) as the op and its two halves fill them."""

from typing import Any

import torch
from torch import Tensor

Inverse = tuple[Tensor, Tensor, Tensor]


def whole(x: Tensor, values: Tensor, W_enc: Tensor, W_dec: Tensor, b_pre: Tensor, need_dx: bool, **others: Any) -> dict:
    """`sparse_backward`: its arguments, by their names, and room for its results."""
    return dict(
        x=x, values=values, W_enc=W_enc, W_dec=W_dec, b_pre=b_pre, **others, **_sizes(values, W_enc),
        dW_dec=torch.empty_like(W_dec), dW_enc=torch.empty_like(W_enc), db_enc=x.new_empty(W_enc.shape[0]),
        db_pre=torch.empty_like(b_pre), dvalues=torch.empty_like(values), dx=torch.empty_like(x) if need_dx else None,
    )  # fmt: skip


def decoding(grad_x_hat: Tensor, values: Tensor, indices: Tensor, W_dec: Tensor, inverse: Inverse) -> dict:
    """`decode_backward`."""
    return dict(
        grad_x_hat=grad_x_hat, values=values, indices=indices, W_dec=W_dec, **_inverse(inverse),
        **_sizes(indices, W_dec), dW_dec=torch.empty_like(W_dec), dvalues=torch.empty_like(values),
    )  # fmt: skip


def encoding(
    x: Tensor, grad_values: Tensor, indices: Tensor, W_enc: Tensor, b_pre: Tensor, need_dx: bool, inverse: Inverse
) -> dict:
    """`encode_backward`."""
    return dict(
        x=x, indices=indices, W_enc=W_enc, b_pre=b_pre, dpre_given=grad_values, **_inverse(inverse),
        **_sizes(indices, W_enc), dW_enc=torch.empty_like(W_enc), db_enc=x.new_empty(W_enc.shape[0]),
        db_pre=torch.empty_like(b_pre), dx=torch.empty_like(x) if need_dx else None,
    )  # fmt: skip


def results(fields: dict, *names: str) -> tuple[Tensor, ...]:
    """Results by name; an empty tensor for a `dx` that is not wanted, because an op returns a tensor."""
    return tuple(fields["x"].new_empty(0) if fields[name] is None else fields[name] for name in names)


def _inverse(inverse: Inverse) -> dict[str, Tensor]:
    return dict(zip(("offsets", "rows", "slots"), inverse, strict=True))


def _sizes(code: Tensor, W: Tensor) -> dict[str, int]:
    (B, k), (n, d) = code.shape, W.shape
    return {"B": B, "k": k, "n": n, "d": d}

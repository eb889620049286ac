"""`top_activations_update_`: the m strongest images of every latent, kept while batches stream by."""

from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.ops import checks, dispatch
from revelio_fast.ops.codes import Code, InverseCode
from revelio_fast.ops.invert_code import invert_code
from revelio_fast.ops.top_activations_update import reference


class TopState(NamedTuple):
    """What is remembered of each latent; changed in place by `top_activations_update_`.

    Attributes
    ----------
    values : Tensor
        ``[n, m]`` float32, largest first, the lower image id first among equals; empty places are -inf.
    image_ids : Tensor
        ``[n, m]`` int64; empty places are -1.
    sums : Tensor
        ``[n]`` float64, sum of all positive activations so far.
    counts : Tensor
        ``[n]`` int64, number of positive activations so far.
    """

    values: Tensor
    image_ids: Tensor
    sums: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, n: int, m: int, device: torch.device | str | None = None) -> "TopState":
        """A state that has seen nothing."""
        return cls(
            torch.full((n, m), -torch.inf, device=device),
            torch.full((n, m), -1, dtype=torch.int64, device=device),
            torch.zeros(n, dtype=torch.float64, device=device),
            torch.zeros(n, dtype=torch.int64, device=device),
        )


def top_activations_update_(
    state: TopState, code: Code, image_ids: Tensor, *, inverse: InverseCode | None = None
) -> None:
    """Take a batch of codes into `state`, in place.

    Only positive activations count (NaN does not). An image has at most one place per latent: its largest activation.
    The result does not depend on how images are cut into batches, but for the rounding of `sums`.

    Parameters
    ----------
    state : TopState
        Changed in place.
    code : Code
        ``[B, k]`` activations.
    image_ids : Tensor
        ``[B]`` int64, not negative.
    inverse : InverseCode, optional
        ``invert_code(code, n)``, where it is already there.

    Raises
    ------
    ValueError
        For a wrong shape, dtype or device, or (on the CPU) a negative image id or a latent outside ``[0, n)``.
    """
    checks.tensor("state.values", state.values, ("n", "m"))
    n, m = state.values.shape
    checks.tensor("state.image_ids", state.image_ids, (n, m), torch.int64)
    checks.tensor("state.sums", state.sums, (n,), torch.float64)
    checks.tensor("state.counts", state.counts, (n,), torch.int64)
    for name, value in zip(TopState._fields, state, strict=True):
        if not value.is_contiguous():
            raise ValueError(f"state.{name} must be contiguous, because it is updated in place: call .contiguous()")
    values, indices = checks.code(*code)
    checks.tensor("image_ids", image_ids, (values.shape[0],), torch.int64)
    checks.same_device(**{"code.values": values, "image_ids": image_ids, "state.values": state.values})
    if image_ids.device.type == "cpu" and image_ids.numel() and int(image_ids.min()) < 0:
        raise ValueError(f"image_ids must not be negative (-1 marks an empty place), got {int(image_ids.min())}")
    inverse = inverse if inverse is not None else invert_code(code, n)
    checks.inverse(*inverse, n, code.indices.numel())
    _top_activations_update_(*state, values, indices, image_ids, *inverse)


_top_activations_update_ = dispatch.custom_op(
    reference.top_activations_update_,
    cuda="cuda",
    mutates_args=("state_values", "state_image_ids", "sums", "counts"),
)


@_top_activations_update_.register_fake
def _(*arguments):
    return None

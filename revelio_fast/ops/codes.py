"""The sparse code of a batch, by row (`Code`) and by latent (`InverseCode`)."""

from typing import NamedTuple

from torch import Tensor


class Code(NamedTuple):
    """The k active latents of each row.

    Attributes
    ----------
    values : Tensor
        ``[B, k]`` float32 activations, largest first; among equals the lower latent first.
    indices : Tensor
        ``[B, k]`` int64 latents, in ``[0, n)``, distinct within a row.
    """

    values: Tensor
    indices: Tensor


class InverseCode(NamedTuple):
    """Which rows use a latent: entries ``offsets[j]:offsets[j + 1]`` belong to latent ``j``, in row order.

    Attributes
    ----------
    offsets : Tensor
        ``[n + 1]`` int64.
    rows : Tensor
        ``[B k]`` int64 row of each entry.
    slots : Tensor
        ``[B k]`` int64 column of the entry within its row of the code.
    """

    offsets: Tensor
    rows: Tensor
    slots: Tensor

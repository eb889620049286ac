"""The features a k-SAE learns from: in memory or on disk, taken in float32, with equal bits from both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from revelio_fast.ksae.sums import sum_rows
from revelio_fast.progress import tqdm
from revelio_fast.store.memory import fits_in_memory

BLOCK = 4096  # rows looked at together in a pass over many


class StoreLike(Protocol):
    """What training uses of an `ActivationStore`."""

    rows: int
    dtype: torch.dtype

    @property
    def d(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def features(self, dtype: torch.dtype | None = ...) -> Tensor: ...

    def read(self, rows: Tensor) -> Tensor: ...

    def held(self) -> Tensor | None: ...


class Features:
    """Features ``[rows, d]`` of a tensor or a store.

    Parameters
    ----------
    name : str
        For errors.
    data : ActivationStore or Tensor
        Held in its own type, not in float32.
    where : {"auto", "memory", "disk"}
        Where a store's rows are taken from; "auto": memory, if they are there already or take at most a third of what
        is free.

    Raises
    ------
    ValueError
        For a wrong shape or type.
    """

    def __init__(self, name: str, data: StoreLike | Tensor, where: str = "auto") -> None:
        self.name, self.held, self._store = name, None, None
        if isinstance(data, Tensor):
            shape, dtype, self.held = data.shape, data.dtype, data.detach()
        else:
            shape, dtype, self._store = torch.Size((data.rows, data.d)), data.dtype, data
            if where != "disk":
                self.held = data.held()
            if self.held is None and (where == "memory" or (where == "auto" and fits_in_memory(data.nbytes))):
                self.held = data.features(None)
        if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
            raise ValueError(f"{name} must hold features [rows >= 2, d >= 1], got shape {list(shape)}")
        if not dtype.is_floating_point:
            raise ValueError(f"{name} must be floating point features, got {dtype}")
        self.rows, self.d = shape

    @property
    def device(self) -> torch.device:
        """Where `take` leaves its rows."""
        return self.held.device if self.held is not None else torch.device("cpu")

    def place(self, device: torch.device) -> None:
        """Move features in memory to a GPU where they fit into half of its free memory."""
        if self.held is not None and (
            device.type != "cuda" or self.held.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
        ):
            self.held = self.held.to(device)

    def take(self, rows: Tensor) -> Tensor:
        """The given rows (integer positions, any order) ``[r, d]``, float32."""
        if self.held is not None:
            return self.held.index_select(0, rows.to(self.held.device)).float()
        assert self._store is not None
        return self._store.read(rows).float()

    def blocks(self, rows: Tensor | None = None) -> Iterator[Tensor]:
        """The given rows, or all, some thousands at a time."""
        for start in range(0, self.rows if rows is None else len(rows), BLOCK):
            stop = min(start + BLOCK, self.rows)
            yield self.take(torch.arange(start, stop) if rows is None else rows[start : start + BLOCK])

    def means(self, apart: Tensor, *, progress: bool = False) -> tuple[Tensor, Tensor]:
        """Means ``[d]`` of all rows but those in `apart` (rising positions), and of `apart`; one pass over the data.

        The sums are float64, in stored order by fixed blocks: the same bits wherever the features lie.

        Raises
        ------
        ValueError
            Naming the first row that holds NaN or infinity.
        """
        sums = torch.zeros(2, self.d, dtype=torch.float64, device=self.device)
        starts = tqdm(
            range(0, self.rows, BLOCK), desc=f"checking {self.name}", unit="block", leave=False,
            disable=not progress or self.held is not None,
        )  # fmt: skip
        for start in starts:
            stop = min(start + BLOCK, self.rows)
            block = self.take(torch.arange(start, stop))
            bad = ~block.isfinite().all(1)
            if bad.any():
                row = start + int(bad.nonzero()[0])
                raise ValueError(
                    f"{self.name} holds NaN or infinity, first in row {row}: remove such rows before training"
                )
            first, last = torch.searchsorted(apart, torch.tensor([start, stop])).tolist()
            others = torch.ones(stop - start, dtype=torch.bool)
            others[apart[first:last] - start] = False
            others = others.to(block.device)
            sums[0] += sum_rows(block[others].double())
            sums[1] += sum_rows(block[~others].double())
        counts = sums.new_tensor([[self.rows - len(apart)], [len(apart)]])
        mean, mean_apart = (sums / counts).float()
        return mean, mean_apart


class HeldOut:
    """Rows that no step trains on, given block by block to whoever measures them.

    Attributes
    ----------
    count : int
        How many.
    mean : Tensor
        ``[d]`` of these rows.
    rows : int
        How many there are.
    """

    def __init__(self, features: Features, rows: Tensor | None, mean: Tensor) -> None:
        self.count = features.rows if rows is None else len(rows)
        self._features, self._rows, self.mean = features, rows, mean
        self.rows = features.rows if rows is None else len(rows)

    def blocks(self) -> Iterator[Tensor]:
        """The rows in rising order, some thousands at a time, float32."""
        return self._features.blocks(self._rows)


def given_validation(data: StoreLike | Tensor, d: int, where: str, *, progress: bool = False) -> HeldOut:
    """Held-out features given by the user, checked to be of the training data's width."""
    features = Features("validation", data, where)
    if features.d != d:
        raise ValueError(f"validation has features of width {features.d}, the training data {d}")
    mean, _ = features.means(torch.empty(0, dtype=torch.int64), progress=progress)
    return HeldOut(features, None, mean)

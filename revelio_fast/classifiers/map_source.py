"""Where a classifier's maps come from: the `MapSource` protocol, and maps cached in tensors or memory-mapped files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from revelio_fast import seeds


class MapSource(Protocol):
    """Labelled feature maps that are handed out batch by batch.

    Attributes
    ----------
    shape : tuple of int
        (C, H, W) of a map.
    labels : Tensor
        int64 ``[N]``.
    """

    shape: tuple[int, int, int]
    labels: Tensor

    def key(self) -> str:
        """Return a digest that another set of maps does not have: a checkpoint belongs to it."""
        ...

    def batches(self, rows: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """Yield the maps ``[len(r), C, H, W]`` of each r in `rows`, any float dtype.

        They follow from the rows and the epoch alone, so that a run that was cut off goes on as if it had not been.
        """
        ...


class CachedMaps:
    """Maps that were extracted once, in memory or memory-mapped; a `MapSource`.

    Parameters
    ----------
    maps : Tensor or sequence of Tensor
        ``[N, C, H, W]``, any float dtype. Several: variants of the same images (random crops); each image runs
        through them all, one per epoch, from a start of its own.
    labels : Tensor
        Integers ``[N]``.
    rows : Tensor, optional
        Int64: use only these rows of `maps` and `labels`, which stay where they are.
    mirror : bool
        Mirror each map left to right with probability one half.
    seed : int
        Of the mirroring and of the variants' starts.
    """

    def __init__(
        self,
        maps: Tensor | Sequence[Tensor],
        labels: Tensor,
        *,
        rows: Tensor | None = None,
        mirror: bool = False,
        seed: int = 0,
    ) -> None:
        self._variants = [maps] if isinstance(maps, Tensor) else list(maps)
        shapes = {tuple(each.shape) for each in self._variants}
        if len(shapes) != 1:
            raise ValueError(f"The variants of the maps differ in shape: {sorted(shapes)}: extract them again")
        first = self._variants[0]
        if first.ndim != 4 or not first.is_floating_point():
            raise ValueError(
                f"The maps have shape {list(first.shape)} and dtype {first.dtype}, expected floating-point maps "
                "[N, C, H, W] (pooled vectors are for the linear probe)"
            )
        if labels.shape != first.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"The labels have shape {list(labels.shape)} and dtype {labels.dtype}, expected one integer for each "
                f"of the {len(first)} maps"
            )
        self._rows = torch.arange(len(first)) if rows is None else rows
        self._mirror = mirror
        self._seed = seed
        self.shape = (first.shape[1], first.shape[2], first.shape[3])
        self.labels = labels.long().cpu()[self._rows]

    def key(self) -> str:
        """Digest of all labels, all shapes and up to 16 evenly spaced maps of each variant."""
        digest = hashlib.sha256(f"{self._mirror} {self._seed} {len(self._variants)}".encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(self._rows.numpy().tobytes())
        for maps in self._variants:
            digest.update(repr((tuple(maps.shape), str(maps.dtype))).encode())
            for row in self._rows[:: max(1, len(self._rows) // 16)].tolist():
                digest.update(maps[row].float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def batches(self, rows: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """See `MapSource.batches`."""
        starts = torch.randint(
            len(self._variants), self.labels.shape, generator=seeds.generator(self._seed, "maps.variant")
        )
        variants = (starts + epoch) % len(self._variants)
        mirrored = torch.rand(len(self.labels), generator=seeds.generator(self._seed, "maps.mirror", epoch)) < 0.5
        for batch in rows:
            maps = self._gather(self._rows[batch], variants[batch])
            if self._mirror:
                turned = mirrored[batch].to(maps.device)[:, None, None, None]
                maps = torch.where(turned, maps.flip(3), maps)
            yield maps

    def _gather(self, rows: Tensor, variants: Tensor) -> Tensor:
        if len(self._variants) == 1:
            return self._variants[0][rows]
        first = self._variants[0]
        maps = torch.empty(len(rows), *self.shape, dtype=first.dtype, device=first.device)
        for number in variants.unique().tolist():
            chosen = variants == number
            maps[chosen] = self._variants[number][rows[chosen]]
        return maps


def epoch_batches(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Cut one permutation of ``range(n)`` into batches; a last batch of one joins the batch before it."""
    batches = list(torch.randperm(n, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat([batches[-1], last])
    return batches

"""Where a classifier's maps come from: the `MapSource` protocol, and maps cached in tensors or stores."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from revelio_fast import seeds
from revelio_fast.store import ActivationStore, Background

Maps = Tensor | ActivationStore


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
    """Maps that were extracted once, in memory or in a store; a `MapSource`.

    A store's maps are read batch by batch, each while the batch before is worked on.

    Parameters
    ----------
    maps : Tensor, ActivationStore, or sequence of them
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
        maps: Maps | Sequence[Maps],
        labels: Tensor,
        *,
        rows: Tensor | None = None,
        mirror: bool = False,
        seed: int = 0,
    ) -> None:
        self._variants: list[Maps] = [maps] if isinstance(maps, Maps) else list(maps)
        shapes = {_shape(each) for each in self._variants}
        if len(shapes) != 1:
            raise ValueError(f"The variants of the maps differ in shape: {sorted(shapes)}: extract them again")
        (shape,), dtype = shapes, self._variants[0].dtype
        if len(shape) != 4 or not dtype.is_floating_point:
            raise ValueError(
                f"The maps have shape {list(shape)} and dtype {dtype}, expected floating-point maps "
                "[N, C, H, W] (pooled vectors are for the linear probe)"
            )
        if labels.shape != shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"The labels have shape {list(labels.shape)} and dtype {labels.dtype}, expected one integer for each "
                f"of the {shape[0]} maps"
            )
        self._rows = torch.arange(shape[0]) if rows is None else rows
        self._mirror = mirror
        self._seed = seed
        self.shape = (shape[1], shape[2], shape[3])
        self.labels = labels.long().cpu()[self._rows]

    def key(self) -> str:
        """Digest of all labels, all shapes and up to 16 evenly spaced maps of each variant."""
        digest = hashlib.sha256(f"{self._mirror} {self._seed} {len(self._variants)}".encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(self._rows.numpy().tobytes())
        for maps in self._variants:
            digest.update(repr((_shape(maps), str(maps.dtype))).encode())
            for row in self._rows[:: max(1, len(self._rows) // 16)].split(1):
                digest.update(_take(maps, row).float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def batches(self, rows: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """See `MapSource.batches`."""
        starts = torch.randint(
            len(self._variants), self.labels.shape, generator=seeds.generator(self._seed, "maps.variant")
        )
        variants = (starts + epoch) % len(self._variants)
        mirrored = torch.rand(len(self.labels), generator=seeds.generator(self._seed, "maps.mirror", epoch)) < 0.5

        def batch_of(places: Tensor) -> Tensor:
            maps = self._gather(self._rows[places], variants[places])
            if self._mirror:
                turned = mirrored[places].to(maps.device)[:, None, None, None]
                maps = torch.where(turned, maps.flip(3), maps)
            return maps

        if all(isinstance(maps, Tensor) for maps in self._variants):
            yield from map(batch_of, rows)
            return
        with Background("revelio-maps") as reading:
            waiting = None
            for places in rows:
                upcoming = reading.ask(functools.partial(batch_of, places))
                if waiting is not None:
                    yield waiting.result()
                waiting = upcoming
            if waiting is not None:
                yield waiting.result()

    def _gather(self, rows: Tensor, variants: Tensor) -> Tensor:
        if len(self._variants) == 1:
            return _take(self._variants[0], rows)
        first = self._variants[0]
        device = first.device if isinstance(first, Tensor) else None
        maps = torch.empty(len(rows), *self.shape, dtype=first.dtype, device=device)
        for number in variants.unique().tolist():
            chosen = variants == number
            maps[chosen] = _take(self._variants[number], rows[chosen])
        return maps


def _shape(maps: Maps) -> tuple[int, ...]:
    return tuple(maps.shape) if isinstance(maps, Tensor) else (maps.rows, *maps.row_shape)


def _take(maps: Maps, rows: Tensor) -> Tensor:
    if isinstance(maps, Tensor):
        return maps[rows]
    held = maps.held()
    return maps.read(rows) if held is None else held[rows]


def epoch_batches(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Cut one permutation of ``range(n)`` into batches; a last batch of one joins the batch before it."""
    batches = list(torch.randperm(n, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat([batches[-1], last])
    return batches

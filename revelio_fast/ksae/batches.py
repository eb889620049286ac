"""The rows a k-SAE trains on: checked, split once, shuffled every epoch, gathered while the step before runs."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from revelio_fast import seeds
from revelio_fast.ksae.row_sources import Features, HeldOut, StoreLike
from revelio_fast.store.background import Background

MOST_HELD_OUT = 65_536  # more would sharpen the held-out FVU no further, and cost minutes each time
FEWEST_HELD_OUT = 10  # of m rows the variance about their own mean is a part in m too small, and one row has none


class TrainingRows:
    """Features ``[N, d]`` with a seeded split into training and held-out rows, and seeded batches.

    The batch of a step depends on the seed and the number of the step only, so a resumed run sees the same batches.
    At 10 million rows the shuffled order takes 40 MB, and 80 MB more while it is drawn.

    Attributes
    ----------
    features : Features
    count : int
        Rows that are trained on.
    apart : Tensor
        Positions of the held-out rows, rising: a share of all, at most 65,536.
    held_out : HeldOut or None
    why_none : str or None
        Why no rows are held out although a share was asked for.
    mean : Tensor
        ``[d]`` of the rows that are trained on.
    batch_size, batches_per_epoch : int
    """

    def __init__(
        self,
        data: StoreLike | Tensor,
        batch_size: int,
        seed: int,
        val_fraction: float,
        *,
        keep_short: bool = False,
        where: str = "auto",
        progress: bool = False,
    ) -> None:
        self.features = Features("data", data, where)
        total, self.seed, self.keep_short = self.features.rows, seed, keep_short
        held, self.why_none = min(total - 1, round(total * val_fraction), MOST_HELD_OUT), None
        if val_fraction and held < FEWEST_HELD_OUT:
            self.why_none = (
                f"a held-out FVU needs at least {FEWEST_HELD_OUT} rows, and {val_fraction:g} of {total} are {held}: "
                "all rows were trained on"
            )
            held = 0
        order = torch.randperm(total, generator=seeds.generator(seed, "ksae.validation"), dtype=_index_type(total))
        self.apart = order[:held].sort().values.long()
        del order
        self.count = total - held
        self.mean, mean_apart = self.features.means(self.apart, progress=progress)
        self.held_out = HeldOut(self.features, self.apart, mean_apart) if held else None
        self.batch_size = min(batch_size, self.count)
        whole, rest = divmod(self.count, self.batch_size)
        self.batches_per_epoch = whole + (1 if keep_short and rest else 0)
        self.device = self.features.device
        self._epoch, self._order = -1, self.apart

    def place(self, device: torch.device) -> None:
        """Give batches on `device`; the features move there too where they fit into half of its free memory."""
        self.device, self._epoch = device, -1
        self.features.place(device)

    def rows_of(self, step: int) -> int:
        """Size of the batch of the step with this number."""
        return min(self.batch_size, self.count - step % self.batches_per_epoch * self.batch_size)

    def batch(self, step: int) -> Tensor:
        """Rows ``[b, d]`` of the step with this number, counted from 0."""
        return self._gathered(step).to(self.device)

    @contextlib.contextmanager
    def batches(self, first: int, last: int) -> Iterator[Iterator[Tensor]]:
        """The batches of the steps `first` to `last` (exclusive), each gathered while the step before runs.

        Features in the memory of the device itself are gathered when they are asked for: nothing would be gained.
        """
        if first == last or (self.features.held is not None and self.features.device == self.device):
            yield map(self.batch, range(first, last))
            return
        with Background("batches") as gathering:
            yield self._ahead(gathering, first, last)

    def _ahead(self, gathering: Background, first: int, last: int) -> Iterator[Tensor]:
        """On a GPU by way of two pinned buffers, made here: a thread must not allocate while a graph is captured."""
        cuda = self.device.type == "cuda"
        shape = (self.batch_size, self.features.d)
        pinned = [torch.empty(shape, pin_memory=True) for _ in range(2)] if cuda else []
        copied = [torch.cuda.Event() for _ in pinned]

        def gather(step: int) -> Tensor:
            rows = self._gathered(step)
            return pinned[step % 2][: len(rows)].copy_(rows) if cuda else rows

        waiting = gathering.ask(partial(gather, first))
        for step in range(first, last):
            rows = waiting.result()
            if cuda:
                rows = rows.to(self.device, non_blocking=True)
                copied[step % 2].record()
                copied[(step + 1) % 2].synchronize()
            if step + 1 < last:
                waiting = gathering.ask(partial(gather, step + 1))
            yield rows

    def _gathered(self, step: int) -> Tensor:
        """The rows where the features lie, or on the host for those on disk."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            generator = seeds.generator(self.seed, "ksae.shuffle", epoch)
            order = torch.randperm(self.count, generator=generator, dtype=_index_type(self.count))
            self._epoch, self._order = epoch, self._positions(order).to(self.features.device)
        return self.features.take(self._order[place * self.batch_size : (place + 1) * self.batch_size])

    def _positions(self, numbers: Tensor) -> Tensor:
        """Positions in the data of training rows counted without the held-out ones; overwrites `numbers`."""
        # The j-th training row stands behind as many held-out rows as have at most j training rows before them.
        before = (self.apart - torch.arange(len(self.apart))).to(numbers.dtype)
        return numbers.add_(torch.searchsorted(before, numbers, right=True, out_int32=numbers.dtype == torch.int32))

    def fingerprint(self) -> str:
        """SHA-256 of the shape and of up to 256 evenly spaced rows: tells a resumed run that these are its features."""
        rows, d = self.features.rows, self.features.d
        sample = self.features.take(torch.linspace(0, rows - 1, min(rows, 256), dtype=torch.float64).long())
        digest = hashlib.sha256(repr((rows, d)).encode())
        digest.update(sample.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def training_device(data: StoreLike | Tensor, asked: torch.device | str | None) -> torch.device:
    """The device asked for; else that of a tensor on a GPU; else a CUDA device if there is one."""
    if asked is not None:
        return torch.device(asked)
    if isinstance(data, Tensor) and data.is_cuda:
        return data.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _index_type(rows: int) -> torch.dtype:
    """The smaller integer type that counts so many rows: randperm draws the same numbers in both."""
    return torch.int32 if rows < 2**31 else torch.int64

"""What the settings are tried on: stored features of mini-sd, and rows made of planted directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from revelio_fast import ActivationStore


class Task(NamedTuple):
    """Where the rows come from and what is the same for all settings tried on them.

    `features` is ``data set/layer`` below the folder of features, None for planted directions of width `planted`.
    """

    features: str | None
    common: dict[str, Any]
    planted: int = 64


TASKS = {
    "flowers x8, 300 steps": Task("flowers/up_ft0", dict(k=16, expansion_factor=8, steps=300, batch_size=256)),
    "cifar10 x8, 1,000 steps": Task("cifar10/up_ft1", dict(k=16, expansion_factor=8, steps=1000, batch_size=256)),
    "digits x64, 500 steps": Task("digits/bottleneck", dict(k=16, expansion_factor=64, steps=500, batch_size=256)),
    "planted x8, 1,500 steps": Task(None, dict(k=6, expansion_factor=8, steps=1500, batch_size=512)),
    "planted wide x4, 800 steps": Task(None, dict(k=6, expansion_factor=4, steps=800, batch_size=512), planted=320),
    "digits x8, 1,000 steps": Task("digits/up_ft1", dict(k=32, expansion_factor=8, steps=1000, batch_size=1024)),
    "cifar10 x64, 1,000 steps": Task("cifar10/bottleneck", dict(k=16, expansion_factor=64, steps=1000, batch_size=256)),
    "cifar10 x8, 4,000 steps": Task("cifar10/up_ft0", dict(k=16, expansion_factor=8, steps=4000, batch_size=256)),
    "planted 160 x4, 1,000 steps": Task(None, dict(k=6, expansion_factor=4, steps=1000, batch_size=256), planted=160),
}
CHOSEN_ON, WIDE, CHECKED_ON = tuple(TASKS)[:4], tuple(TASKS)[4:5], tuple(TASKS)[5:]
PLANTED_ROWS, ACTIVE = 40_000, 6


def rows_of(task: Task, folder: Path, seed: int) -> tuple[Tensor, Tensor | None]:
    """Rows ``[N, d]`` float32, and the directions ``[m, d]`` planted in them, if any."""
    if task.features is not None:
        return ActivationStore.open(folder / task.features / "t25").features(torch.float32), None
    d = task.planted
    # Not the seed of the training, whose first random numbers are the initial decoder rows.
    generator = torch.Generator().manual_seed(10_007 + seed)
    directions = normalize(torch.randn(4 * d, d, generator=generator))
    which = torch.rand(PLANTED_ROWS, 4 * d, generator=generator).topk(ACTIVE).indices
    weights = torch.rand(PLANTED_ROWS, ACTIVE, generator=generator) + 0.5
    return torch.zeros(PLANTED_ROWS, 4 * d).scatter_(1, which, weights) @ directions, directions

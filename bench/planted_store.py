"""A store of random features with planted structure, written in bounded memory and reused when it is there."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from revelio_fast import ops
from revelio_fast.store import ActivationStore, StoreError

DIRECTIONS, ACTIVE, NOISE = 4096, 32, 0.02
ROWS_OF_A_BLOCK, ROWS_OF_A_SHARD = 8192, 16_384


def dictionary(d: int) -> Tensor:
    """The planted directions ``[4096, d]``, of unit length."""
    # Not the seed of a training: its first random numbers, the initial decoder rows, would be these very directions.
    return normalize(torch.randn(DIRECTIONS, d, generator=torch.Generator().manual_seed(10_007)))


def block(number: int, directions: Tensor) -> Tensor:
    """Rows ``[8192, d]``: 32 directions each, some drawn far oftener than others, with weights, and noise."""
    generator = torch.Generator().manual_seed(number)
    shape = (ROWS_OF_A_BLOCK, ACTIVE)
    which = (torch.rand(shape, generator=generator).square() * DIRECTIONS).long()
    code = ops.Code(torch.rand(shape, generator=generator) + 0.5, which)
    clean = ops.sparse_decode(code, directions, torch.zeros(directions.shape[1]))
    return clean.add_(torch.randn(clean.shape, generator=generator), alpha=NOISE)


def planted_store(path: Path, rows: int, d: int, *, progress: bool = True) -> tuple[ActivationStore, float]:
    """The store at `path`, bfloat16, made or continued as needed; and rows written per second (NaN if it was there)."""
    about = {"layer": "planted", "timestep": 0, "directions": DIRECTIONS, "active": ACTIVE, "noise": NOISE}
    if (path / "manifest.json").exists():
        found = ActivationStore.open(path, allow_incomplete=True)
        if found.complete:
            if (found.rows, found.d, found.metadata) != (rows, d, about):
                raise StoreError(f"{path} holds another store ({found}): give --store another folder, or delete it.")
            return found, float("nan")
    directions, started = dictionary(d), time.perf_counter()
    with ActivationStore.create(path, d, torch.bfloat16, ROWS_OF_A_SHARD, **about) as writer:
        present = writer.rows
        with tqdm(total=rows, initial=present, desc="planted rows", unit="row", disable=not progress) as bar:
            for start in range(present, rows, ROWS_OF_A_BLOCK):
                features = block(start // ROWS_OF_A_BLOCK, directions)[: rows - start]
                writer.append(features, torch.arange(start, start + len(features)))
                bar.update(len(features))
    return ActivationStore.open(path), (rows - present) / (time.perf_counter() - started)


@torch.no_grad()
def best_cosines(W_dec: Tensor, d: int) -> Tensor:
    """Of each planted direction with the decoder row that is nearest to it ``[4096]``."""
    rows = normalize(W_dec)
    return torch.cat([(part @ rows.T).amax(1) for part in dictionary(d).split(256)])

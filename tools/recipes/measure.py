"""One training with the settings tried, and what is read off it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from revelio_fast import KSAEConfig, KSparseAutoencoder, train_ksae
from tools.recipes.tasks import TASKS, rows_of

COSINE = 0.9  # from here on a decoder row counts as a planted direction found


def measure(task: str, settings: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """Held-out FVU, share of latents that no row uses, share of planted directions found, CPU seconds of the process.

    A tenth of the rows is held out for every setting alike, chosen by the seed.
    """
    rows, directions = rows_of(TASKS[task], folder, seed)
    apart = torch.randperm(len(rows), generator=torch.Generator().manual_seed(77 + seed))
    held_out, rows = rows[apart[: len(rows) // 10]], rows[apart[len(rows) // 10 :]]
    config = KSAEConfig(**TASKS[task].common | {"seed": seed, "eval_every": 10**6} | settings)
    started = time.process_time()
    result = train_ksae(rows, config, validation=held_out, progress=False)
    seconds = time.process_time() - started
    measured = {
        "heldout_fvu": result.metrics["holdout_fvu"],
        "fvu": result.metrics["fvu"],
        "lr": config.for_width(rows.shape[1]).lr,
        "unused": unused_share(result.sae, rows),
        "cpu_seconds": round(seconds, 2),
    }
    if directions is not None:
        best = (directions @ normalize(result.sae.W_dec.detach()).T).amax(1)
        measured["recovered"] = (best > COSINE).double().mean().item()
    return measured


def unused_share(sae: KSparseAutoencoder, rows: Tensor) -> float:
    """Share of the latents that are in the code of none of the rows."""
    used = torch.zeros(sae.n_latents, dtype=torch.bool)
    with torch.no_grad():
        for block in rows.split(4096):
            code = sae.encode(block)
            used[code.indices[code.values != 0]] = True
    return 1 - used.double().mean().item()

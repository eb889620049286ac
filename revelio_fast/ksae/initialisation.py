"""The weights a training run starts from: `new_sae` by the settings' `init`, all drawn from the settings' seed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from revelio_fast import ops, seeds
from revelio_fast.ksae.batches import TrainingRows
from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.sums import mean_rows, squared_distance, sum_all

NOISE = 0.3  # of a decoder row made from a data row, in standard deviations of the data
LOOKED_AT = 8192  # rows at most, from which the scale of the encoder and the rows of init="data" come


def new_sae(rows: TrainingRows, config: KSAEConfig) -> KSparseAutoencoder:
    """A model for these rows, on the CPU; b_pre is the mean of the data (authors' semantics: of the first batch)."""
    d = rows.features.d
    # The batch that gives the authors' b_dec is taken from their loader: training begins with the next one.
    mean = (mean_rows(rows.batch(0)) if config.compat == "authors" else rows.mean).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seeds.derive(config.seed, "ksae.init"))
        sae = KSparseAutoencoder(d, k=config.k, n_latents=config.latents(d), relu=config.relu)
        sae.b_pre.copy_(mean)
        if config.init == "authors":
            sae.initialise_as_authors()
        elif config.init == "data":
            x = _first_rows(rows)
            spread = (squared_distance(x, mean) / x.numel()).sqrt()
            chosen = torch.randint(len(x), (sae.n_latents,))
            # Noise keeps latents apart that were drawn from one row, and alone makes a direction of constant data.
            directions = (x[chosen] - mean) / torch.where(spread > 0, spread, 1.0)
            sae.W_dec.copy_(normalize(directions + NOISE * torch.randn(sae.n_latents, d)))
            sae.W_enc.copy_(sae.W_dec)
        if config.init in ("data", "scaled"):
            sae.W_enc.mul_(_best_scale(sae, _first_rows(rows)))
    return sae


def _first_rows(rows: TrainingRows) -> Tensor:
    """Training rows of the first batches, enough for statistics."""
    batches = min(rows.batches_per_epoch, -(-LOOKED_AT // rows.batch_size))
    return torch.cat([rows.batch(number).cpu() for number in range(batches)])[:LOOKED_AT]


def _best_scale(sae: KSparseAutoencoder, x: Tensor) -> Tensor:
    """The factor of W_enc that minimises the squared error on `x`; 1 where nothing is rebuilt.

    The code of a k-SAE without encoder bias grows in proportion to W_enc, and so does its reconstruction.
    """
    rebuilt = ops.sparse_decode(sae.encode(x), sae.W_dec, torch.zeros_like(sae.b_pre))
    squares = sum_all(rebuilt.square())
    scale = sum_all(rebuilt * (x - sae.b_pre)) / squares
    return torch.where(scale > 0, scale, 1.0) if squares > 0 else torch.ones(())

"""Plant unit directions in random rows and see how many a trained k-SAE finds, with both engines.

python -m tools.planted_recovery --json docs/evidence/planted_recovery.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import torch
from torch.nn.functional import normalize

from revelio_fast import KSAEConfig, KSAEResult, train_ksae
from revelio_fast.report.versions import versions

WIDTH, DIRECTIONS, ACTIVE, ROWS = 64, 256, 6, 40_000
COSINE = 0.9
CONFIG = dict(
    k=ACTIVE, n_latents=512, steps=1500, batch_size=512, lr=2e-3, warmup_steps=100, aux_k=64, dead_after=20_000
)


def planted_rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows ``[ROWS, WIDTH]``, each a sum of ACTIVE random directions with weights in [0.5, 1.5]; and the directions."""
    # Not the seed of the training: its first random numbers, the initial decoder rows, would be these very directions.
    generator = torch.Generator().manual_seed(10_007 + seed)
    directions = normalize(torch.randn(DIRECTIONS, WIDTH, generator=generator))
    which = torch.rand(ROWS, DIRECTIONS, generator=generator).topk(ACTIVE).indices
    weights = torch.rand(ROWS, ACTIVE, generator=generator) + 0.5
    return torch.zeros(ROWS, DIRECTIONS).scatter_(1, which, weights) @ directions, directions


def recovered_share(engine: str, seed: int = 0, steps: int = CONFIG["steps"]) -> tuple[float, KSAEResult]:
    """Share of directions with a decoder row of cosine above COSINE, and the trained k-SAE."""
    rows, directions = planted_rows(seed)
    result = train_ksae(rows, KSAEConfig(engine=engine, seed=seed, **CONFIG | {"steps": steps}), progress=False)
    best = (directions @ normalize(result.sae.W_dec.detach()).T).amax(1)
    return (best > COSINE).double().mean().item(), result


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    runs = []
    for engine in ("fused", "autograd"):
        for seed in range(options.seeds):
            at_first, _ = recovered_share(engine, seed, steps=1)
            started = time.time()
            share, result = recovered_share(engine, seed)
            metrics = {name: result.metrics[name] for name in ("fvu", "holdout_fvu", "l0", "dead")}
            runs.append(
                {
                    "engine": engine,
                    "seed": seed,
                    "recovered_at_first": at_first,
                    "recovered": share,
                    **metrics,
                    "seconds": round(time.time() - started, 1),
                }
            )
            print(runs[-1], flush=True)
    if options.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        about = {
            "what": f"share of {DIRECTIONS} planted unit directions (d={WIDTH}, {ACTIVE} active of weight 0.5-1.5, "
            f"{ROWS} rows) with a decoder row of cosine > {COSINE}",
            "config": CONFIG,
            "seeds": list(range(options.seeds)),
            "versions": versions(),
            "commit": commit,
            "runs": runs,
        }
        options.json.write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Try training settings and keep what came out; a rerun tries only what is missing.

python -m tools.recipes --features FOLDER run             # FOLDER/digits/bottleneck/t25 and so on, see docs/training.md
python -m tools.recipes table                             # write the tables into docs/training.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from revelio_fast.atomic import atomic_write_bytes, atomic_write_json
from revelio_fast.report.versions import versions
from tools.recipes.grid import SEEDS, STAGES
from tools.recipes.measure import measure
from tools.recipes.table import tables, with_tables

ROOT = Path(__file__).resolve().parents[2]
RECORD, PAGE = ROOT / "docs/evidence/recipes.json", ROOT / "docs/training.md"


def try_all(record: Path, features: Path, stages: list[str]) -> None:
    """Run every (stage, settings, task, seed) that `record` lacks, writing it after each."""
    runs: list[dict[str, Any]] = json.loads(record.read_text())["runs"] if record.exists() else []
    # The same settings may stand in several stages: they are run once.
    done = {_key(run["task"], run["settings"], run["seed"]) for run in runs}
    for stage in stages:
        for name, settings in STAGES[stage].settings.items():
            for task in STAGES[stage].tasks:
                for seed in range(SEEDS):
                    if _key(task, settings, seed) in done:
                        continue
                    measured = measure(task, settings, seed, features)
                    runs.append({"task": task, "settings": settings, "seed": seed, **measured})
                    done.add(_key(task, settings, seed))
                    atomic_write_json(record, {"threads": 1, "versions": versions(), "runs": runs})
                    print(stage, name, task, seed, measured, flush=True)


def _key(task: str, settings: dict[str, Any], seed: int) -> str:
    return json.dumps([task, settings, seed], sort_keys=True)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--features", type=Path, help="folder of the data sets' features")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    if options.action == "run":
        if options.features is None:
            parser.error("run needs --features")
        torch.set_num_threads(1)
        try_all(options.record, options.features, options.stages)
    else:
        page = with_tables(PAGE.read_text(), tables(json.loads(options.record.read_text())["runs"]))
        atomic_write_bytes(PAGE, page.encode())


if __name__ == "__main__":
    main()

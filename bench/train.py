"""python -m bench train [--rows N] [--steps 200] [--batch 8192] [--store DIR] [--baseline] [--json FILE]

The paper's training run on features from a store on disk: `train_ksae` itself, in fresh processes. One takes all the
steps; one takes three and saves; one goes on from there: each with its own peak of memory. --baseline adds a dense
PyTorch step of the same batch, as the authors' code computes it; at the paper's size it needs about 20 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measure import stamp, write_json
from bench.ops.bench_adam_unit_norm_step import dense_step
from bench.planted_store import best_cosines, planted_store
from bench.problems import Shape, inputs
from revelio_fast import ActivationStore, KSAEConfig, train_ksae

ROOT = Path(__file__).resolve().parents[1]
SAVED_STEPS = 3
AUTHORS_STEPS, AUTHORS_BATCH, PAPER_ROWS = 10_240, 8192, 10_000_000
# Supplement of the paper: "approximately 1 hour with ~18 GB peak memory on 1 NVIDIA RTX A6000 GPU [...] for 10M steps".
PAPER = "the paper: about 1 hour and 18 GB on an RTX A6000 for its 10 M"


def main(arguments: list[str]) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        prog="python -m bench train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, help="of the store; by default steps x batch and the held-out ones")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=AUTHORS_BATCH)
    parser.add_argument("--d", type=int, default=1280)
    parser.add_argument("--expansion", type=int, default=64)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--store", type=Path, help="where the features are or go; by default in the temporary folder")
    parser.add_argument("--baseline", action="store_true", help="measure a dense PyTorch step, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if min(options.steps, options.batch, options.d, options.expansion, options.k) < 1:
        parser.error("steps and sizes must be at least 1")
    rows = options.rows or (options.steps + 1) * options.batch
    folder = options.store or Path(tempfile.gettempdir()) / f"revelio-planted-{rows}x{options.d}"
    _, written = planted_store(folder, rows, options.d)
    about = stamp(options.steps)
    task = {
        "store": str(folder), "steps": options.steps, "batch_size": options.batch, "k": options.k,
        "expansion_factor": options.expansion, "val_fraction": min(0.05, options.batch / rows),
    }  # fmt: skip
    row: dict[str, Any] = {
        "shape": str(Shape(options.batch, options.d, options.expansion * options.d, options.k)),
        "batch": options.batch,
        "store_rows": rows,
        "rows_written_per_second": written,
        **_in_process("measured", task),
    }
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        saving = task | {"out": out, "steps": SAVED_STEPS}
        row["peak_mb_with_checkpoint"] = _in_process("measured", saving)["peak_mb"]
        row["peak_mb_resumed"] = _in_process("measured", saving | {"steps": SAVED_STEPS + 1})["peak_mb"]
    if options.baseline:
        row["dense_step_s"] = _in_process("dense", task | {"d": options.d})["step_s"]
    print(table({"rows": [row]}))
    if options.json:
        write_json(options.json, {"stamp": about, "rows": [row]})


def _in_process(work: str, task: dict[str, Any]) -> dict[str, Any]:
    """What the function of this name returns, run alone in a new process."""
    with tempfile.NamedTemporaryFile("r") as answer:
        code = f"from bench.train import {work}; {work}({task!r}, {answer.name!r})"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=os.environ)
        return json.load(answer)


def measured(task: dict[str, Any], answer: str) -> None:
    """Train, and write down times, memory and what was learned."""
    task = dict(task)
    store, out = ActivationStore.open(task.pop("store")), task.pop("out", None)
    config = KSAEConfig(**task, data="disk", eval_every=task["steps"])
    result = train_ksae(store, config, out_dir=out)
    peak = _peak_mb()
    steps, waits = result.timing["step"], result.timing["wait"]
    # The first step's batch is waited for: nothing ran before it. It also faults in the moments.
    later = slice(1, None) if len(steps) > 1 else slice(None)
    cosines = best_cosines(result.sae.W_dec.detach(), store.d)
    deciles = statistics.quantiles(steps[later], n=10) if len(steps) > 2 else [min(steps[later]), max(steps[later])]
    _answer(
        answer,
        steps=len(steps),
        step_s=statistics.median(steps[later]),
        step_s_10=deciles[0],
        step_s_90=deciles[-1],
        wait_share=sum(waits[later]) / sum(steps[later]),
        peak_mb=peak,
        seconds=result.metrics["seconds"],
        fvu_first=result.history["fvu"][0],
        fvu_last=result.history["fvu"][-1],
        holdout_fvu=result.metrics["holdout_fvu"],
        dead=result.metrics["dead"],
        mean_best_cosine=cosines.mean().item(),
        recovered_share=(cosines > 0.9).double().mean().item(),
    )


def dense(task: dict[str, Any], answer: str) -> None:
    """The second of two dense steps: the first makes Adam's moments."""
    d = task["d"]
    shape = Shape(task["batch_size"], d, task["expansion_factor"] * d, task["k"])
    step = dense_step(inputs(shape), shape)
    step()
    started = time.perf_counter()
    step()
    _answer(answer, step_s=time.perf_counter() - started, peak_mb=_peak_mb())


def _answer(path: str, **found: float) -> None:
    Path(path).write_text(json.dumps(found))


def _peak_mb() -> float:
    """Largest resident size of this process so far; getrusage would count the parent's before exec, too."""
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmHWM:")).split()[1]) / 1024


def table(results: dict[str, Any]) -> str:
    """The run in Markdown; what was not run but computed from it says so."""
    (row,) = results["rows"]
    median, slow = row["step_s"], row["step_s_90"]
    speed = row["batch"] / median
    lines = [
        f"| training from disk, {row['steps']} steps | |",
        "|---|---|",
        f"| seconds a step: median (10 %, 90 %) | {median:.2f} ({row['step_s_10']:.2f}, {slow:.2f}) |",
        f"| rows a second | {speed:,.0f} |",
        f"| share of a step spent waiting for rows | {row['wait_share']:.2%} |",
        f"| peak memory, all in | {_gb(row['peak_mb'])} |",
        f"| the same where a checkpoint is written; where a run resumes | "
        f"{_gb(row['peak_mb_with_checkpoint'])}; {_gb(row['peak_mb_resumed'])} |",
        f"| FVU of the first and the last batch; of held-out rows | "
        f"{row['fvu_first']:.3f}, {row['fvu_last']:.3f}; {row['holdout_fvu']:.3f} |",
        f"| planted directions: mean cosine with the nearest decoder row; above 0.9 | "
        f"{row['mean_best_cosine']:.3f}; {row['recovered_share']:.1%} |",
    ]
    if "dense_step_s" in row:
        ratio = row["dense_step_s"] / median
        lines.append(f"| a dense float32 PyTorch step of the same batch | {row['dense_step_s']:.1f} s: {ratio:.1f}x |")
    hours = AUTHORS_STEPS * AUTHORS_BATCH / speed / 3600
    lines += [
        f"| **extrapolated**: {AUTHORS_STEPS:,} steps of {AUTHORS_BATCH} rows (the authors' default), steps alone | "
        f"{hours:.2f} h |",
        f"| **extrapolated**: 10 million rows, steps alone ({PAPER}) | {PAPER_ROWS / speed / 60:.0f} min |",
    ]
    return "\n".join(lines)


def _gb(mb: float) -> str:
    return f"{mb * 2**20 / 1e9:.2f} GB"

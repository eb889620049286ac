"""python -m bench encode-shapes [--B 1 7 64 1024 --d 320 640 1152 1280 --n 20480 --k 32] [--json FILE]

topk_encode from a single row to a batch, at the widths of the features, beside torch's product and topk in float32 and
in bfloat16 (there with weights rounded beforehand). REVELIO_ISA chooses other kernels of ours, not of torch.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.measure import Variant, compare, stamp, warn_if_busy, write_json
from bench.problems import Inputs, Shape, inputs
from revelio_fast import ops

WIDTHS, BATCHES = (320, 640, 1152, 1280), (1, 7, 64, 1024)
FLOAT32, BFLOAT16, OURS = "torch float32", "torch bf16", "revelio_fast {}"
PRECISIONS = ("fp32", "fast", "bf16")
SECONDS_PER_ROW = 0.5  # so that small cases are repeated often; at least five times


def main(arguments: list[str]) -> int:
    """Measure and print; the widths are gone through once, each with all batches."""
    parser = argparse.ArgumentParser(
        prog="python -m bench encode-shapes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--B", type=int, nargs="+", default=BATCHES, help="rows")
    parser.add_argument("--d", type=int, nargs="+", default=WIDTHS, help="widths")
    parser.add_argument("--n", type=int, default=20_480, help="latents")
    parser.add_argument("--k", type=int, default=32, help="active latents a row")
    parser.add_argument("--json", type=Path, help="where to write the rows and the stamp")
    options = parser.parse_args(arguments)
    if min(*options.B, *options.d, options.k) < 1 or options.k > options.n:
        parser.error(f"sizes must be at least 1 and k at most n, got {vars(options)}")
    about = stamp(repeats=5)
    warn_if_busy(about)
    rows: list[dict[str, Any]] = []
    for d in options.d:
        p = inputs(Shape(max(options.B), d, options.n, options.k))
        for B in options.B:
            rows += measure(p._replace(x=p.x[:B]), Shape(B, d, options.n, options.k))
    results = {"stamp": about, "rows": rows}
    print(table(results))
    if options.json:
        write_json(options.json, results)
    return 0


def measure(p: Inputs, shape: Shape) -> list[dict[str, Any]]:
    """Rows of `compare`, with how often each was repeated."""
    ways = variants(p, shape)
    start = time.perf_counter()
    for run in ways.values():
        run()
    repeats = max(5, round(SECONDS_PER_ROW / (time.perf_counter() - start)))
    return [{**row, "repeats": repeats} for row in compare("encode-shapes", str(shape), ways, repeats)]


def variants(p: Inputs, shape: Shape) -> dict[str, Variant]:
    """Name -> the scores kept, in order."""
    rounded = p.W_enc.bfloat16(), p.b_enc.bfloat16()

    def dense(W_enc: Tensor, b_enc: Tensor) -> Tensor:
        return torch.addmm(b_enc, (p.x - p.b_pre).to(W_enc.dtype), W_enc.T).topk(shape.k).values

    def ours(precision: str) -> Tensor:
        with ops.use_backend("cpu"):
            return ops.topk_encode(p.x, p.W_enc, p.b_enc, p.b_pre, shape.k, precision=precision).values

    named = {OURS.format(precision): partial(ours, precision) for precision in PRECISIONS}
    return {FLOAT32: partial(dense, p.W_enc, p.b_enc), BFLOAT16: partial(dense, *rounded), **named}


def table(results: dict[str, Any]) -> str:
    """What was measured and where, and one line a shape in Markdown."""
    about, rows = results["stamp"], results["rows"]
    of_shape: dict[str, dict[str, float]] = {}
    for row in rows:
        of_shape.setdefault(row["shape"], {})[row["impl"]] = row["median_s"]
    most = max(row["repeats"] for row in rows)
    columns = ["shape", "torch float32, ms", "torch bf16, ms"]
    for precision in PRECISIONS:
        columns += [f"{precision}, ms", "over float32" + (", over bf16" if precision != "fp32" else "")]
    lines = [
        f"{about['cpu']}, {about['threads']} threads, {about['isa']}, torch {about['torch']}, medians of "
        f"{about['repeats']} to {most}; {about['busy_before']:.0%} of the machine busy before",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for shape, median in of_shape.items():
        cells = [shape, f"{1e3 * median[FLOAT32]:.2f}", f"{1e3 * median[BFLOAT16]:.2f}"]
        for precision in PRECISIONS:
            own = median[OURS.format(precision)]
            over = [FLOAT32] if precision == "fp32" else [FLOAT32, BFLOAT16]
            cells += [f"{1e3 * own:.2f}", ", ".join(f"{median[other] / own:.2f}x" for other in over)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

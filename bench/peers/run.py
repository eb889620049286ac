"""python -m bench peers [--what encode|step] [--only NAME ...] [--B 1024 --d 1280 --n 20480 --k 32] [--json FILE]

The training step or the encoder of other libraries and ours, in one process, in turn, on the same data and from the
same start; what each library does differently is printed under the table. To install: pip install '.[bench]', then
pip install --no-deps -r bench/peers/requirements.txt, for the versions that were measured and for two libraries whose
own requirements are old or large. One that is absent is listed and left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.measure import compare, reset_peak, stamp, warn_if_busy, warn_of_memory, write_json
from bench.peers.catalog import IMPLEMENTATIONS, OURS, Builder, Implementation
from bench.peers.packages import NotInstalled, load, version
from bench.problems import Inputs, Shape, inputs
from bench.table import limits_lines, shown

DEFAULT = Shape(1024, 1280, 20_480, 32)


class Way:
    """One implementation at work: its first call builds, runs and reads the result; the others, which are timed, run.

    Attributes
    ----------
    held_mb : float
        Resident memory that building and one run left behind: weights, moments, gradients, caches.
    first, last : Tensor
        FVU of the first and of the latest call; of codes both are the first call's ``[B, k]`` values, in falling order.
    indices : Tensor or None
        Latents of the first call's codes.
    """

    def __init__(self, build: Builder, p: Inputs, shape: Shape) -> None:
        self._build, self._p, self._shape = build, p, shape
        self._run: Any = None
        self.indices: Tensor | None = None

    def __call__(self) -> Tensor:
        if self._run is not None:
            result = self._run()
            if self.indices is None:  # an FVU; codes are let go, or they would count as memory of the next run
                self.last = result
            return result
        before = reset_peak()
        self._run = self._build(self._p, self._shape)
        self.first = self.last = self._read(self._run())
        self.held_mb = reset_peak() - before
        return self.first

    def _read(self, result: Any) -> Tensor:
        if isinstance(result, Tensor) and result.ndim < 2:
            return result.detach().float().reshape(1)
        values, indices = result if isinstance(result, tuple) else (result, None)
        best = values.float().topk(self._shape.k, dim=1)
        self.indices = best.indices if indices is None else indices.gather(1, best.indices)
        return best.values


def measure(
    what: str, shape: Shape, chosen: list[Implementation], repeats: int, limits: dict[str, float]
) -> list[dict[str, Any]]:
    """Rows of `compare`, with memory held, results and differences; ratios are over the first of `chosen`."""
    p = inputs(shape)
    ways = {one.name: Way(getattr(one, what), p, shape) for one in chosen}
    works = {one.name: one.work(what, shape) for one in chosen}
    rows = compare(f"peers {what}", str(shape), dict(ways), repeats, works=works, limits=limits)
    ours = next((row["median_s"] for row in rows if row["impl"] == OURS), None)
    first = ways[chosen[0].name]
    for row, one in zip(rows, chosen, strict=True):
        way = ways[one.name]
        row["held_mb"] = way.held_mb
        row["ours_faster"] = row["median_s"] / ours if ours else None
        row["differs"] = one.differs
        if what == "step":
            row["fvu_first"], row["fvu_last"] = way.first.item(), float(way.last)
            row["updates_between"] = repeats + 1
        else:
            row["same_latents"] = same_latents(way.indices, first.indices, shape.n)
    return rows


def same_latents(codes: Tensor | None, others: Tensor | None, n: int) -> float:
    """Share of a code's latents that the other code has in the same row, over all rows."""
    assert codes is not None and others is not None, "an encoder returned no indices"
    marks = torch.zeros(codes.shape[0], n, dtype=torch.bool).scatter_(1, others, True)
    return marks.gather(1, codes).float().mean().item()


def choose(what: str, only: list[str] | None) -> tuple[list[Implementation], dict[str, str]]:
    """Those that do the work and are installed, and for each absent one the reason and the command that installs it."""
    chosen, absent = [], {}
    for one in IMPLEMENTATIONS:
        if getattr(one, what) is None or (only and one.name not in only):
            continue
        try:
            if one.package is not None:
                load(one.package)
            chosen.append(one)
        except NotInstalled as error:
            absent[one.name] = str(error)
    return chosen, absent


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, and under them what each does differently."""
    steps = "fvu_first" in rows[0]
    compared = ("FVU before", f"FVU after {rows[0]['updates_between']} updates") if steps else ("same latents",)
    columns = ("work", "implementation", "median s", "vs first", f"over {OURS}'s", "of limit")
    columns += ("held MB", "added MB", "difference", *compared)
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        over = f"{row['ours_faster']:.2f}x" if row["ours_faster"] else "-"
        seen = (f"{row['fvu_first']:.4f}", f"{row['fvu_last']:.4f}") if steps else (f"{row['same_latents']:.2%}",)
        cells = (
            row["what"],
            row["impl"],
            f"{row['median_s']:.4f}",
            f"{row['ratio']:.2f}x",
            over,
            shown(row, "share_of_limit", ".0%"),
            f"{row['held_mb']:.0f}",
            f"{row['added_mb']:.0f}",
            f"{row['max_rel_err']:.1e}",
            *seen,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {row['impl']}: {row['differs']}" for row in rows)])


def main(arguments: list[str]) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        prog="python -m bench peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("encode", "step"), default="step")
    names = [one.name for one in IMPLEMENTATIONS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"some of: {', '.join(names)}")
    for name, default in zip(Shape._fields, DEFAULT, strict=True):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the rows and the stamp")
    options = parser.parse_args(arguments)
    shape = Shape(options.B, options.d, options.n, options.k)
    if options.repeats < 1 or min(shape) < 1 or shape.k > shape.n:
        parser.error(f"repeats and sizes must be at least 1 and k at most n, got {options.repeats} repeats and {shape}")
    idle = [name for name in options.only or () if getattr(IMPLEMENTATIONS[names.index(name)], options.what) is None]
    if idle:
        parser.error(f"{', '.join(idle)} cannot {options.what}: leave it out of --only")
    chosen, absent = choose(options.what, options.only)
    for name, reason in absent.items():
        print(f"{name}: {reason}", file=sys.stderr)
    if not chosen:
        print("nothing to measure", file=sys.stderr)
        return 1
    warn_of_memory(options.what, shape.B, shape.d, shape.n, len(chosen))
    about = stamp(options.repeats)
    about["peers"] = {one.package.distribution: version(one.package) for one in chosen if one.package is not None}
    warn_if_busy(about)
    about["limits"] = {f"peers {options.what}": {}}
    rows = measure(options.what, shape, chosen, options.repeats, about["limits"][f"peers {options.what}"])
    print(table(rows), limits_lines(about), sep="\n\n")
    if options.json:
        write_json(options.json, {"stamp": about, "rows": rows, "not_installed": absent})
    return 0

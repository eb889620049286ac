"""python -m bench model: the modelled, not measured, time of GPU kernels and of a training step on several cards."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import write_json
from bench.problems import Shape
from revelio_fast.gpu_check import model

PAPER = Shape(4096, 1280, 81_920, 32)


def main(arguments: list[str]) -> int:
    """Print the tables and write what they are made from."""
    parser = argparse.ArgumentParser(prog="python -m bench model", description=__doc__)
    for name, size in PAPER._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args(arguments)
    results = rows(Shape(options.B, options.d, options.n, options.k))
    print(tables(results))
    if options.json:
        write_json(options.json, results)
    return 0


def rows(shape: Shape) -> dict[str, Any]:
    """Bytes and flops of each kernel, and seconds by card: between `best_s` and `worst_s`."""
    steps: dict[str, Callable[[model.Card], list[model.Work]]] = {
        "revelio_fast": lambda card: model.our_step(*shape, card.capability),
        "PyTorch": lambda card: model.dense_step(*shape),
    }
    return {
        "shape": str(shape),
        "bytes_per_parameter": model.optimiser_bytes_per_parameter(),
        "encoder_extra_share": {
            precision: [model.encoder_extra_share(*shape, precision, 90, worst=worst) for worst in (False, True)]
            for precision in ("bf16", "fast")
        },
        "cards": {card.name: card._asdict() for card in model.CARDS},
        "rows": [
            {
                "step": step,
                "card": card.name,
                **work._asdict(),
                "best_s": work.seconds(card),
                "worst_s": work.seconds(card, worst=True),
            }
            for step, works in steps.items()
            for card in model.CARDS
            for work in works(card)
        ],
    }


def tables(results: dict[str, Any]) -> str:
    """Time of a step by card, then every kernel on the second card, in Markdown."""
    total: dict[tuple[str, str], list[float]] = {}
    for row in results["rows"]:
        sums = total.setdefault((row["step"], row["card"]), [0.0, 0.0])
        sums[0] += row["best_s"]
        sums[1] += row["worst_s"]
    lines = [
        f"Modelled, not measured; {results['shape']}.",
        "",
        "| card | TFLOP/s bf16, dense | GB/s | our step, ms | PyTorch step, ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name, card in results["cards"].items():
        best, worst = total["revelio_fast", name]
        dense = total["PyTorch", name][0]
        lines.append(
            f"| {name} | {card['bf16_tflops']:g} | {card['gb_s']:g} | {1e3 * best:.2f} to {1e3 * worst:.2f} "
            f"| {1e3 * dense:.2f} | {dense / worst:.1f}x to {dense / best:.1f}x |"
        )
    shares = {
        name: _range(100 * low, 100 * high, ".1f") for name, (low, high) in results["encoder_extra_share"].items()
    }
    lines += [
        "",
        f"The optimiser sweep moves {results['bytes_per_parameter']:g} bytes a parameter. Beside its operands, the",
        f"rows that it rescores and its result, the encoder moves {shares['bf16']} % (bf16) or {shares['fast']} %",
        "(fast, fp32) of what writing the scores once in float32 would take.",
    ]
    shown = model.CARDS[1].name
    lines += [
        "",
        f"Kernel by kernel on {shown}:",
        "",
        "| step | kernel | by | MB moved | GFLOP tensor cores | GFLOP float32 | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        if row["card"] == shown:
            moved = _range(row["bytes_best"] / 1e6, row["bytes_worst"] / 1e6, ".0f")
            time = _range(1e3 * row["best_s"], 1e3 * row["worst_s"], ".3f")
            lines.append(
                f"| {row['step']} | {row['what']} | {row['by']} | {moved} "
                f"| {row['tensor_flops'] / 1e9:.0f} | {row['float_flops'] / 1e9:.1f} | {time} |"
            )
    return "\n".join(lines)


def _range(low: float, high: float, style: str) -> str:
    ends = format(low, style), format(high, style)
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)

"""python -m bench encode|decode|residual|top|step|all [--paper] [--B 64 --d 640 --n 8192 --k 32] [--json FILE]

python -m bench aot|model|gpu [--help]: the GPU kernels compiled ahead of time, their modelled time, and all of them
checked and measured on a GPU.
python -m bench peers [--help]: other libraries' training step and encoder beside ours.
python -m bench extract FOLDER [--help]: extraction beside the authors' loop.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from bench.measure import compare, stamp
from bench.ops import (
    bench_adam_unit_norm_step,
    bench_sparse_decode,
    bench_sparse_residual,
    bench_top_activations_update,
    bench_topk_encode,
)
from bench.problems import Shape, inputs

BENCHES = {
    "encode": bench_topk_encode,
    "decode": bench_sparse_decode,
    "residual": bench_sparse_residual,
    "top": bench_top_activations_update,
    "step": bench_adam_unit_norm_step,
}
ELSEWHERE = {
    "aot": "bench.gpu_compile",
    "model": "bench.gpu_model",
    "gpu": "bench.gpu",
    "extract": "bench.extract",
    "peers": "bench.peers.run",
}
SMALL, PAPER = Shape(1024, 640, 8192, 32), Shape(4096, 1280, 81_920, 32)


def main() -> None:
    """Command line entry."""
    if sys.argv[1:2] and sys.argv[1] in ELSEWHERE:
        sys.exit(importlib.import_module(ELSEWHERE[sys.argv[1]]).main(sys.argv[2:]))
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*BENCHES, "all"])
    parser.add_argument("--paper", action="store_true", help=f"the paper's size, {PAPER}, instead of {SMALL}")
    for name, meaning in zip(Shape._fields, ("rows", "width", "latents", "active latents a row"), strict=True):
        parser.add_argument(f"--{name}", type=int, help=f"{meaning}, instead of that size's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the rows and the stamp")
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in Shape._fields if getattr(options, name) is not None}
    shape = (PAPER if options.paper else SMALL)._replace(**given)
    if options.repeats < 1 or min(shape) < 1 or shape.k > shape.n:
        parser.error(f"repeats and sizes must be at least 1 and k at most n, got {options.repeats} repeats and {shape}")
    about = stamp(options.repeats)
    if about["busy_before"] > 0.1:
        print(f"warning: {about['busy_before']:.0%} of the machine is busy; figures will be off", file=sys.stderr)
    rows = []
    for name in BENCHES if options.what == "all" else [options.what]:
        rows += compare(name, str(shape), BENCHES[name].variants(inputs(shape), shape), options.repeats)
    print(table(rows))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"stamp": about, "rows": rows}, indent=2) + "\n")


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    columns = (
        "work",
        "implementation",
        "median s",
        "speed-up over the first",
        "over our PyTorch reference",
        "added memory, MB",
        "largest relative difference",
    )
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        over = f"{row['ratio_reference']:.2f}x" if row.get("ratio_reference") else "-"
        added = f"{row['added_mb']:.0f}" if "added_mb" in row else "-"
        figures = f"{row['median_s']:.4f} | {row['ratio']:.2f}x | {over} | {added} | {row['max_rel_err']:.1e}"
        lines.append(f"| {row['what']} | {row['impl']} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

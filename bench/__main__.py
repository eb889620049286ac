"""python -m bench encode|decode|residual|top|sweep|step|all [--paper] [--B 64 --d 640 --n 8192 --k 32] [--json FILE]
    [--only NAME ...] [--without NAME ...]

python -m bench aot|model|gpu [--help]: the GPU kernels compiled ahead of time, their modelled time, and all of them
checked and measured on a GPU.
python -m bench peers [--help]: other libraries' training step and encoder beside ours.
python -m bench extract FOLDER [--help]: extraction beside the authors' loop.
python -m bench train [--help]: the paper's training run from a store on disk.
python -m bench decode-images FOLDER [--help]: images decoded and preprocessed a second, by workers.
python -m bench encode-shapes [--help]: topk_encode from one row to a batch, beside torch.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import sys
from pathlib import Path
from typing import Any

from bench.measure import compare, stamp, warn_if_busy, warn_of_memory, write_json
from bench.ops import (
    bench_adam_unit_norm_step,
    bench_sparse_decode,
    bench_sparse_residual,
    bench_sweep,
    bench_top_activations_update,
    bench_topk_encode,
)
from bench.problems import Shape, inputs
from bench.table import limits_lines, table

BENCHES = {
    "encode": bench_topk_encode,
    "decode": bench_sparse_decode,
    "residual": bench_sparse_residual,
    "top": bench_top_activations_update,
    "sweep": bench_sweep,
    "step": bench_adam_unit_norm_step,
}
ELSEWHERE = {
    "aot": "bench.gpu_compile",
    "model": "bench.gpu_model",
    "gpu": "bench.gpu",
    "decode-images": "bench.decode_images",
    "encode-shapes": "bench.encode_shapes",
    "extract": "bench.extract",
    "peers": "bench.peers.run",
    "train": "bench.train",
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
    for name, meaning in (("only", "the implementations to run"), ("without", "those to leave out")):
        parser.add_argument(f"--{name}", nargs="+", metavar="NAME", help=f"{meaning}; * and ? stand for anything")
    parser.add_argument("--json", type=Path, help="where to write the rows and the stamp")
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in Shape._fields if getattr(options, name) is not None}
    shape = (PAPER if options.paper else SMALL)._replace(**given)
    if options.repeats < 1 or min(shape) < 1 or shape.k > shape.n:
        parser.error(f"repeats and sizes must be at least 1 and k at most n, got {options.repeats} repeats and {shape}")
    about = stamp(options.repeats) | {"limits": {}}
    warn_if_busy(about)
    rows = []
    for name in BENCHES if options.what == "all" else [options.what]:
        rows += measure(name, shape, options.repeats, options.only, options.without, about["limits"])
    if not rows:
        names = (
            ", ".join(BENCHES[options.what].variants(inputs(shape), shape)) if options.what != "all" else "any bench"
        )
        parser.error(f"--only {options.only} --without {options.without} leave nothing of {names}")
    print(table(rows), limits_lines(about), sep="\n\n")
    if options.json:
        write_json(options.json, {"stamp": about, "rows": rows})


def measure(
    what: str,
    shape: Shape,
    repeats: int,
    only: list[str] | None,
    without: list[str] | None,
    limits: dict[str, dict[str, float]],
) -> list[dict[str, Any]]:
    """Rows of one bench, its limits into `limits`; none where no implementation is left."""
    bench: Any = BENCHES[what]
    p = inputs(shape)
    ways = chosen(bench.variants(p, shape), only, without)
    if not ways:
        return []
    warn_of_memory(what, *shape[:3], len(ways))
    works = bench.works(shape) if hasattr(bench, "works") else dict.fromkeys(ways, bench.least_bytes(shape))
    rows = compare(what, str(shape), ways, repeats, works=works, limits=limits.setdefault(what, {}))
    return rows + (bench.more(p, shape, repeats) if hasattr(bench, "more") else [])


def chosen(ways: dict[str, Any], only: list[str] | None, without: list[str] | None) -> dict[str, Any]:
    """Those that a pattern of `only` names and none of `without` does."""

    def named(name: str, patterns: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return {name: way for name, way in ways.items() if named(name, only or ["*"]) and not named(name, without or [])}


if __name__ == "__main__":
    main()

"""python -m bench.readme: puts the tables of bench/results, a folder per processor, into README and docs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bench import encode_shapes, gpu_compile, gpu_model, train
from bench.peers.run import table as table_of_peers
from bench.table import limits_lines, table

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"<!-- bench:([\w/]+) -->.*?<!-- /bench -->", flags=re.DOTALL)
FILES = ("README.md", "docs/performance.md", "docs/gpu-model.md")
WITH_OWN_TABLE = {
    "gpu_model": gpu_model.tables,
    "gpu_aot": gpu_compile.summary,
    "zen4/encode_shapes": encode_shapes.table,
    "zen4/encode_shapes_avx2": encode_shapes.table,
}


def main() -> None:
    """Rewrite the files; a mark whose JSON is missing is left as it is."""
    for path in map(ROOT.joinpath, FILES):
        path.write_text(MARK.sub(_filled, path.read_text()))


def _filled(mark: re.Match) -> str:
    source = ROOT / "bench" / "results" / f"{mark[1]}.json"
    if not source.exists():
        return mark[0]
    results = json.loads(source.read_text())
    if mark[1] in WITH_OWN_TABLE:
        where = f"([JSON](/{source.relative_to(ROOT)}))"
        return f"<!-- bench:{mark[1]} -->\n{WITH_OWN_TABLE[mark[1]](results)}\n\n{where}\n<!-- /bench -->"
    about, shape = results["stamp"], results["rows"][0]["shape"]
    where = (
        f"{shape}; {about['cpu']}, {about['threads']} threads, {about['isa']}, torch {about['torch']}, "
        f"medians of {about['repeats']}; {about['busy_before']:.0%} of the machine busy before "
        f"([JSON](/{source.relative_to(ROOT)}))"
    )
    if mark[1].endswith("/train"):
        shown = train.table(results)
    else:
        shown = (table_of_peers if "differs" in results["rows"][0] else table)(results["rows"])
    if limits := limits_lines(about):
        shown += f"\n\n{limits}"
    return f"<!-- bench:{mark[1]} -->\n{where}\n\n{shown}\n<!-- /bench -->"


if __name__ == "__main__":
    main()

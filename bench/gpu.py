"""python -m bench gpu: parity, CUDA graphs, compute-sanitizer and measured against modelled times, on a real GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.measure import write_json
from revelio_fast.gpu_check import check_gpu
from revelio_fast.ops import BackendError


def main(arguments: list[str]) -> int:
    """Print the report and write it; exit code 1 where a check failed or there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small shapes only, no sanitizer and no timings")
    parser.add_argument("--json", type=Path, help="where to write the report")
    options = parser.parse_args(arguments)
    try:
        report = check_gpu(quick=options.quick)
    except BackendError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if options.json:
        write_json(options.json, report)
    return 1 if report["failed"] else 0

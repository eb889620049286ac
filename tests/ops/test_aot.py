"""Every GPU kernel compiles for the architectures we name, without a spilled register.

The compiler runs in its own process: this one holds Triton's interpreter, which compiles nothing.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu_compile import CAPABILITIES

ROOT = Path(__file__).resolve().parents[2]
OFTEN = (80, 90, 100)


def without_interpreter() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


@pytest.fixture(
    scope="module", params=[OFTEN, pytest.param(CAPABILITIES, marks=pytest.mark.slow)], ids=["often", "all"]
)
def report(request, tmp_path_factory) -> dict:
    """What `python -m bench aot` wrote."""
    pytest.importorskip("triton", reason="Triton is not installed")
    path = tmp_path_factory.mktemp("aot") / "aot.json"
    capabilities = [str(capability) for capability in request.param]
    command = [sys.executable, "-m", "bench", "aot", "--json", str(path), "--capabilities", *capabilities]
    run = subprocess.run(command, env=without_interpreter(), capture_output=True, text=True, cwd=ROOT, timeout=570)
    assert path.exists(), run.stdout[-3000:] + run.stderr[-3000:]
    found = json.loads(path.read_text()) | {"capabilities": request.param, "returncode": run.returncode}
    return found


def test_a_spill_would_be_seen():
    pytest.importorskip("triton", reason="Triton is not installed")
    script = (
        "import json; from bench.gpu_compile import compile_case; from revelio_fast.ops.sparse_decode import triton;"
        "print(json.dumps(compile_case(triton.aot_cases(90)[0], 90, maxnreg=24)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], env=without_interpreter(), capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    row = json.loads(run.stdout.splitlines()[-1])
    assert row["registers"] <= 24 and row["spilled_bytes"] > 0 and row["mix"]["local"] > 0


def of(report: dict, source: str) -> list[dict]:
    return [row for row in report["rows"] if row["source"] == source]


def test_no_kernel_spills(report):
    spilling = [
        (row["kernel"], row["capability"], row["spilled_bytes"]) for row in report["rows"] if row["spilled_bytes"]
    ]
    local = [(row["kernel"], row["capability"]) for row in report["rows"] if "local" in row["mix"]]
    assert not spilling and not local and report["returncode"] == 0


def test_every_triton_kernel_is_compiled_for_every_architecture(report):
    assert not report["uncovered"]
    kernels = {row["kernel"] for row in of(report, "triton")}
    assert {row["function"] for row in of(report, "triton")} >= {"_bag"}
    for capability in report["capabilities"]:
        compiled = [row["kernel"] for row in of(report, "triton") if row["capability"] == capability]
        assert sorted(compiled) == sorted(kernels), f"sm_{capability}"


def test_every_cuda_kernel_is_built_for_every_architecture(report):
    if not of(report, "cuda"):
        pytest.skip("revelio_fast._cuda is not built here, or holds no kernel")
    sources = "".join(path.read_text() for path in sorted((ROOT / "csrc" / "cuda").glob("*.cu*")))
    defined = set(
        re.findall(
            r"__global__\s+(?:__launch_bounds__\([^)]*\)\s*)?void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)", sources
        )
    )
    assert defined
    for capability in report["capabilities"]:
        built = {row["function"].split("<")[0] for row in of(report, "cuda") if row["capability"] == capability}
        assert built >= defined, f"sm_{capability} lacks {defined - built}"


def test_cuda_kernels_leave_room_in_a_block(report):
    """48 KiB is what a block gets unasked; of the sweep's, 40 may hold rows (latent_gradients.cuh)."""
    for row in of(report, "cuda"):
        most = (8 if "sweep" in row["function"] else 48) * 1024
        assert row["shared_bytes"] <= most, f"{row['function']} on sm_{row['capability']}"


def test_the_architectures_are_those_of_the_build():
    listed = re.search(r"CMAKE_CUDA_ARCHITECTURES (\d.*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert [int(name.removesuffix("-real")) for name in listed[1].split()] == list(CAPABILITIES)


def test_rows_are_read_by_loads_of_16_bytes(report):
    """A decoder row of a width that is a multiple of 16 is gathered by 16-byte loads: 8 for the rows, one for b_pre."""
    for row in of(report, "triton"):
        if row["kernel"] == "sparse_decode d=1280":
            assert row["mix"]["16-byte load"] == 9, f"sm_{row['capability']}: {row['mix']}"


def test_the_screen_runs_on_the_tensor_cores_of_its_architecture(report):
    kinds = {80: "mma", 86: "mma", 89: "mma", 90: "wgmma", 100: "tcgen05", 120: "mma"}
    screens = [row for row in of(report, "triton") if row["function"] == "_enc_top2"]
    assert {row["capability"] for row in screens} == set(report["capabilities"])
    for row in screens:
        assert row["tensor_cores"] == kinds[row["capability"]], f"{row['kernel']} on sm_{row['capability']}"

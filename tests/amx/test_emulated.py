"""The AMX kernels in the binary that ships, executed by an emulator that keeps to Intel's manual."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.amx import EmulatorError, build, build_emulator, environment

ROOT = Path(__file__).resolve().parents[2]
REPORT = "import torch; from revelio_fast import _C; print(_C.isa())"
SCREENS, ENCODE, SHAPES = "tests/ops/test_topk_screen.py", "tests/ops/test_topk_encode.py", "tests/amx/test_shapes.py"
FEW = "tests/ops/test_topk_few.py"
# The hardest of each kind; the others follow in the slow test.
SOME = (
    "(screen and (cannot_hold or any_shape or rounding_errors or cancel or outlier or given_up or heavy or near_ties))"
    " or (cpu and (ties_go or infinities or exact_on_integers or bfloat16))"
)


def python(emulator, *arguments, **extra):
    command = [sys.executable, *arguments]
    env = environment(emulator, **extra)
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=590)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    pytest.importorskip("revelio_fast._C", reason="the extension is not built")
    try:
        library = build_emulator(tmp_path_factory.mktemp("amx"))
    except EmulatorError as error:
        pytest.skip(str(error))
    asked = python(library, "-c", REPORT)
    if "this processor does not have it" in asked.stderr or "REVELIO_ISA must be" in asked.stderr:
        pytest.skip("AMX comes with AVX-512 VNNI and bfloat16: without them, or not compiled, it cannot be emulated")
    assert asked.stdout.strip() == "amx", asked.stderr
    return library


def passes(emulator, *arguments):
    # pytest's fault handler would take the signal that unknown instructions raise.
    tests = python(emulator, "-m", "pytest", "-q", "-p", "no:faulthandler", "-p", "no:cacheprovider", *arguments)
    assert tests.returncode == 0, tests.stdout[-3000:] + tests.stderr[-1000:]
    assert " passed" in tests.stdout


def test_shapes_and_counts(emulator):
    passes(emulator, SHAPES)


def test_the_hardest_op_tests_pass(emulator):
    passes(emulator, "-k", SOME, SCREENS, ENCODE)


@pytest.mark.slow
def test_all_op_tests_pass(emulator):
    passes(emulator, "-k", "(screen or cpu) and not contract and not compile", SCREENS, ENCODE)


def test_amx_is_emulated_only_where_it_is_asked_for(emulator):
    chosen = python(emulator, "-c", REPORT, REVELIO_ISA="")
    assert chosen.returncode == 0
    assert chosen.stdout.strip() != "amx" or "amx_int8" in Path("/proc/cpuinfo").read_text()


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_a_processor_that_sums_wrongly_is_refused(emulator, kind):
    asked = python(emulator, "-c", REPORT, REVELIO_TEST_AMX_WRONG=kind)
    assert f"REVELIO_ISA=amx: its {kind} sums of known products came out wrong on this machine" in asked.stderr


FAULTS = {
    "none": "TILEZERO: #UD, no tile configuration",
    "palette": "LDTILECFG: #GP, the palette",
    "reserved": "LDTILECFG: #GP, a reserved byte",
    "large": "LDTILECFG: #GP, a tile is larger",
    "half": "LDTILECFG: #GP, a tile has rows or columns",
    "unused": "TILEZERO: #UD, this tile register is not configured",
    "shapes": "TDPBSSD: #UD, the shapes do not fit",
    "twice": "TDPBSSD: #UD, a tile register is named twice",
    "stale": "TILEZERO: #UD, no tile configuration",
    "unknown": "SIGILL: an instruction that is not emulated",
}


def test_the_emulator_faults_where_the_manual_does(emulator, tmp_path):
    flags = ["-mamx-tile", "-mamx-int8", "-ldl"]
    try:
        program = build("faults.cpp", tmp_path / "faults", "-std=c++17", "-O1", *flags)
    except EmulatorError as error:
        pytest.skip(str(error))
    for fault, sentence in FAULTS.items():
        command, env = [str(program), fault], environment(emulator)
        run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert run.returncode < 0, fault
        assert sentence in run.stderr, fault
    assert subprocess.run([str(program), "no fault"], env=environment(emulator), timeout=60).returncode == 0


@pytest.mark.slow
def test_few_rows_have_the_bits_of_the_tiles(emulator):
    passes(emulator, "-k", "bf16 or bits_of_many", FEW)

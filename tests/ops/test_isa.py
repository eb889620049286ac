"""Every instruction set that this processor has passes the op tests; others are refused with a sentence."""

import os
import subprocess
import sys

import pytest

REPORT = "import torch; from revelio_fast import _C; print(_C.isa())"


def python(*arguments, isa):
    environment = os.environ | {"REVELIO_ISA": isa}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])  # avx512bf16 is what is chosen where it exists
def test_the_op_tests_pass_on(isa):
    pytest.importorskip("revelio_fast._C", reason="the extension is not built")
    asked = python("-c", REPORT, isa=isa)
    if asked.returncode:
        pytest.skip(f"{isa}: {asked.stderr.strip().splitlines()[-1]}")
    assert asked.stdout.strip() == isa
    tests = python("-m", "pytest", "-q", "-k", "cpu and not contract and not compile and not isa", "tests/ops", isa=isa)
    assert tests.returncode == 0, tests.stdout[-3000:]


def test_an_unknown_instruction_set_is_named():
    pytest.importorskip("revelio_fast._C", reason="the extension is not built")
    asked = python("-c", REPORT, isa="sse9")
    assert "REVELIO_ISA must be baseline, avx2, avx512 or avx512bf16, got sse9" in asked.stderr

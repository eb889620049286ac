"""Every instruction set that this processor has passes the op tests; others are refused with a sentence."""

import os
import subprocess
import sys

import pytest

from tests.amx import PROCESSOR_HAS_AMX

REPORT = "import torch; from revelio_fast import _C; print(_C.isa())"


def python(*arguments, isa):
    environment = os.environ | {"REVELIO_ISA": isa}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])  # amx: tests/amx; avx512bf16: chosen elsewhere
def test_the_op_tests_pass_on(isa):
    pytest.importorskip("revelio_fast._C", reason="the extension is not built")
    asked = python("-c", REPORT, isa=isa)
    if asked.returncode:
        pytest.skip(f"{isa}: {asked.stderr.strip().splitlines()[-1]}")
    assert asked.stdout.strip() == isa
    chosen = "(cpu or few) and not contract and not compile and not isa"
    tests = python("-m", "pytest", "-q", "-k", chosen, "tests/ops", isa=isa)
    assert tests.returncode == 0, tests.stdout[-3000:]


def test_an_unknown_instruction_set_is_named():
    pytest.importorskip("revelio_fast._C", reason="the extension is not built")
    asked = python("-c", REPORT, isa="sse9")
    assert "REVELIO_ISA must be baseline, avx2, avx512, avx512bf16 or amx, got sse9" in asked.stderr


def test_amx_is_refused_with_a_sentence_where_the_processor_lacks_it():
    pytest.importorskip("revelio_fast._C", reason="the extension is not built")
    if PROCESSOR_HAS_AMX:
        pytest.skip("this processor has AMX")
    asked = python("-c", REPORT, isa="amx")
    assert "RuntimeError: REVELIO_ISA=amx: this processor does not have it" in asked.stderr
    passed_over = python("-c", "import torch; from revelio_fast import _C; print([_C.passed_over()])", isa="")
    assert passed_over.stdout.strip() == "['']"

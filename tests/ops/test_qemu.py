"""The CPU kernels on emulated older processors: the right path is chosen, and gives the bits of a real one (slow).

qemu-user translates every instruction and knows which ones a processor lacks: an AVX-512 instruction outside the
AVX-512 path, in a static initialiser or in a shared inline function, ends these tests by SIGILL. It emulates AVX2 and
FMA since 7.2 and no AVX-512, so that a server processor named here is one whose AVX-512 has been switched off.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.ops.cases import problem

ROOT = Path(__file__).resolve().parents[2]

# Without torch and numpy, which ask for more than the oldest of these processors have.
CHOSEN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("revelio_fast._C", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.isa())
"""

pytestmark = pytest.mark.slow


def python(emulator: list[str], *arguments: str, isa: str | None = None) -> subprocess.CompletedProcess[str]:
    """`[emulator] python arguments`, with torch's OpenMP at hand for those who do not import torch."""
    environment = {name: value for name, value in os.environ.items() if name != "REVELIO_ISA"}
    environment |= {"LD_LIBRARY_PATH": str(Path(torch.__file__).parent / "lib"), "OMP_NUM_THREADS": "1"}
    if isa:
        environment["REVELIO_ISA"] = isa
    command = [*emulator, sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=500)


def output(run: subprocess.CompletedProcess[str]) -> str:
    """What a run that must succeed has printed."""
    assert run.returncode == 0, f"exit status {run.returncode}\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
    return run.stdout.strip()


@pytest.fixture(scope="module")
def qemu() -> str:
    found = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if found is None:
        pytest.skip("qemu-x86_64 is not installed: apt install qemu-user")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    numbers = re.search(r"version (\d+)\.(\d+)", version)
    if numbers is None or tuple(map(int, numbers.groups())) < (7, 2):
        pytest.skip(f"qemu emulates AVX2 from version 7.2 on, this is {version.splitlines()[0]}")
    return found


@pytest.fixture(scope="module")
def extension() -> str:
    found = importlib.util.find_spec("revelio_fast._C")
    if found is None:
        pytest.skip("the extension is not built")
    return str(found.origin)


@pytest.mark.parametrize(
    ("processor", "isa"),
    [
        ("qemu64", "baseline"),  # SSE3: the first x86-64 processors
        ("Nehalem", "baseline"),
        ("SandyBridge", "baseline"),  # AVX alone
        ("Haswell,-fma", "baseline"),  # the AVX2 path is compiled with FMA
        ("Haswell", "avx2"),
        ("EPYC", "avx2"),
        ("Cascadelake-Server", "avx2"),  # AVX-512 switched off
    ],
)
def test_the_best_path_of_a_processor_is_chosen(qemu, extension, processor, isa):
    assert output(python([qemu, "-cpu", processor], "-c", CHOSEN, extension)) == isa


def test_a_path_that_a_processor_lacks_is_refused(qemu, extension):
    for processor, isa in (("Nehalem", "avx2"), ("Haswell", "avx512")):
        run = python([qemu, "-cpu", processor], "-c", CHOSEN, extension, isa=isa)
        assert f"REVELIO_ISA={isa}: this processor does not have it" in run.stderr


@pytest.mark.parametrize(("processor", "isa"), [("Nehalem", "baseline"), ("Haswell", "avx2")])
def test_every_kernel_gives_the_bits_of_a_real_processor(qemu, extension, tmp_path, processor, isa):
    p = problem(65, 97, 1031, 32)
    p.x[0, 3], p.x[1, 5], p.x[2] = torch.nan, torch.inf, 1e-41 * p.x[2]
    save_file(p._asdict() | {"k": torch.tensor(p.k)}, tmp_path / "in.safetensors")
    command = ["-m", "tests.ops.six_kernels", str(tmp_path / "in.safetensors")]
    real = python([], *command, str(tmp_path / "real.safetensors"), isa=isa)
    if "this processor does not have it" in real.stderr:
        pytest.skip(f"this processor has no {isa} to compare with")
    assert output(real) == isa
    assert output(python([qemu, "-cpu", processor], *command, str(tmp_path / "emulated.safetensors"))) == isa
    want, got = load_file(tmp_path / "real.safetensors"), load_file(tmp_path / "emulated.safetensors")
    assert want.keys() == got.keys()
    for name, tensor in want.items():
        # The same instructions on the same numbers. (assert_close takes NaN for equal, as equal bits may not.)
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("processor", "isa"), [("Nehalem", "baseline"), ("Haswell", "avx2")])
def test_the_op_tests_pass_on_the_path_chosen_for(qemu, extension, processor, isa):
    chosen = "(cpu or native) and not contract and not compile and not isa and not sanitizers and not qemu"
    run = python([qemu, "-cpu", processor], "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, "tests/ops")
    assert " passed" in output(run)

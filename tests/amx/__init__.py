"""AMX without AMX: an emulator of its instructions is preloaded, and the shipped binary runs as it is."""

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROCESSOR_HAS_AMX = "amx_tile" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else False
FLAGS = ["-std=c++17", "-O3", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mfma", "-fno-math-errno", "-ffp-contract=off"]


class EmulatorError(RuntimeError):
    """The emulator cannot be built here; the message says why."""


def build(source: str, output: Path, *flags: str) -> Path:
    """Compile one of this folder's sources; raises `EmulatorError` without a compiler for x86-64."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None or os.uname().machine != "x86_64" or os.uname().sysname != "Linux":
        raise EmulatorError("emulating AMX needs g++ on x86-64 Linux")
    done = subprocess.run([compiler, *flags, str(HERE / source), "-o", str(output)], capture_output=True, text=True)
    if done.returncode:
        raise EmulatorError(f"{source} does not compile:\n{done.stderr[-2000:]}")
    return output


def build_emulator(folder: Path) -> Path:
    """The emulator as a library to preload; raises `EmulatorError` where it cannot do its work."""
    if PROCESSOR_HAS_AMX:
        raise EmulatorError(
            "this processor has AMX: it executes LDTILECFG itself, where the emulator waits for the trap. The op tests "
            "run on the real unit here"
        )
    return build("emulator.cpp", folder / "libamx_emulator.so", *FLAGS, "-shared", "-fPIC")


def environment(emulator: Path, **extra: str) -> dict[str, str]:
    """What a process needs to run with the emulator: it must be there before Python is."""
    named = {"LD_PRELOAD": str(emulator), "REVELIO_ISA": "amx", "REVELIO_AMX_EMULATOR": str(emulator)}
    return os.environ | {"OMP_NUM_THREADS": "1"} | named | extra

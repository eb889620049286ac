"""No code compiled for one instruction set can be linked in where another is expected.

Of an inline function or a template that several objects define, a linker keeps the first copy for all of them: one
compiled for AVX-512 would crash older processors far from any kernel. The same holds for a static initialiser, which
runs as soon as the module is loaded. Objects are compiled without optimisation, so that nothing hides by being inlined.
"""

import json
import re
import shlex
import shutil
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cmake_build import configure, run


class Unit(NamedTuple):
    """A C++ file as it is compiled for an instruction set."""

    file: str
    isa: str  # empty: for any processor
    machine: tuple[str, ...]  # the flags that let the compiler use instructions: -mavx2 ...
    command: list[str]
    folder: Path


@pytest.fixture(scope="module")
def units(tmp_path_factory) -> list[Unit]:
    build = tmp_path_factory.mktemp("commands")
    configure(build, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    found = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        command = shlex.split(entry["command"])
        isa = "".join(word.removeprefix("-DREVELIO_ISA=") for word in command if word.startswith("-DREVELIO_ISA="))
        machine = tuple(word for word in command if word.startswith("-m"))
        found.append(Unit(Path(entry["file"]).name, isa, machine, command, build))
    return found


def test_only_kernels_are_compiled_for_more_than_the_oldest_processor(units):
    assert {"", "baseline", "avx2", "avx512"} <= {unit.isa for unit in units}
    for unit in units:
        assert bool(unit.machine) == (unit.isa not in ("", "baseline")), f"{unit.file} for {unit.isa}: {unit.machine}"


def test_no_two_instruction_sets_share_a_function(units, tmp_path):
    for tool in ("nm", "objdump"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} (binutils) is not installed")
    flags_of = defaultdict(set)
    for number, unit in enumerate(unit for unit in units if unit.isa):
        out = tmp_path / f"{number}.o"
        at = unit.command.index("-o") + 1
        run(*unit.command[:at], out, *unit.command[at + 1 :], "-O0", cwd=unit.folder)
        where = f"{unit.file} for {unit.isa}"
        assert ".init_array" not in run("objdump", "-h", out), f"{where} has a static initialiser"
        # V and W: weak; u: unique in the process. DW.ref.*: the address of the exception handler, no code.
        for name in re.findall(r"^[0-9a-f]+ [VWu] (?!DW\.ref\.)(\S+)$", run("nm", out), re.MULTILINE):
            assert f"7revelio{len(unit.isa)}{unit.isa}" in name, f"{where} shares {name} with all objects"
            flags_of[name].add(unit.machine)
    for name, flags in flags_of.items():
        assert len(flags) == 1, f"{name} is compiled with different flags: {sorted(flags)}"

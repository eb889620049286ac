"""Builds the CUDA module against the host shim: g++ and pybind11 are enough, no CUDA header is read."""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
# -ffp-contract=off, as nvcc gets -fmad=false: the bits are those of the GPU
OPTIONS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off")
SANITIZERS = ("-O1", "-fsanitize=address,undefined", "-fsanitize-sections=shim_shared", "-fno-omit-frame-pointer", "-g")


class ShimError(RuntimeError):
    """The shim cannot be built here; the message says why."""


def compiler() -> str:
    """g++, or what CXX names; raises `ShimError` where the shim cannot run."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        raise ShimError("the host shim needs g++, which is not installed")
    if os.uname().machine not in ("x86_64", "amd64"):
        raise ShimError(f"the host shim switches fibers on x86-64 only, this is {os.uname().machine}")
    return found


def build(csrc: Path = CSRC, flags: Sequence[str] = (), folder: Path | None = None) -> Path:
    """Compile `csrc`/cuda and its bindings; a library with the same sources and flags is compiled once per machine."""
    if importlib.util.find_spec("pybind11") is None:
        raise ShimError("the host shim needs pybind11, which is not installed")
    import pybind11

    units = [*sorted((csrc / "cuda").glob("*.cu")), csrc / "bindings_cuda.cpp", HERE / "shim.cpp"]
    headers = [*sorted((csrc / "cuda").glob("*.h")), *sorted((csrc / "params").glob("*.h")), csrc / "python_fields.h"]
    options = [compiler(), *OPTIONS, *flags]
    options += [f"-I{path}" for path in (HERE, csrc, pybind11.get_include(), sysconfig.get_paths()["include"])]

    def name(*sources: Path) -> str:
        device = sorted((csrc / "cuda").glob("*.cuh")) if any(path.suffix == ".cu" for path in sources) else []
        content = b"".join(path.read_bytes() for path in (*sources, *headers, *device, HERE / "cuda_runtime.h"))
        about = (*options[: len(OPTIONS) + len(flags) + 1], pybind11.__version__, sysconfig.get_python_version())
        return hashlib.sha256(content + repr(about).encode()).hexdigest()[:20]

    folder = folder or Path(tempfile.gettempdir()) / f"revelio-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{name(*units)}.so"
    if library.exists():
        return library
    objects = {unit: folder / f"{unit.stem}-{name(unit)}.o" for unit in units}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        running = []
        for unit, kept in objects.items():
            if not kept.exists():
                made = Path(scratch) / kept.name
                command = [*options, "-x", "c++", "-c", str(unit), "-o", str(made)]
                running.append((subprocess.Popen(command, stderr=subprocess.PIPE, text=True), made, kept))
        for process, made, kept in running:
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(f"the host shim does not compile:\n{errors[-4000:]}")
            made.replace(kept)
        linked = Path(scratch) / library.name
        command = [*options, "-shared", *map(str, objects.values()), "-o", str(linked)]
        subprocess.run(command, check=True)
        linked.replace(library)
    return library


def load(library: Path) -> ModuleType:
    """The library as a module of the name that its bindings have."""
    spec = importlib.util.spec_from_file_location("_cuda", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def schedule(module: ModuleType, seed: int, weak: bool = False) -> None:
    """Order threads and blocks by `seed`; `weak`: stores to shared memory are seen by others only after a barrier."""
    ctypes.CDLL(module.__file__).shim_schedule(ctypes.c_uint64(seed), int(weak))

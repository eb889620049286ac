"""Every op test runs once per backend that its op has; one that cannot run here is skipped with its reason.

Without a GPU, "triton" runs in Triton's interpreter and "cuda" in the host shim of tests/shim, both on CPU tensors.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from revelio_fast.ops import backends, cuda_runtime, dispatch, use_backend
from tests import shim


def pytest_generate_tests(metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        names = ["torch", *dispatch.OPS[metafunc.module.OP].preferred.values()]
        metafunc.parametrize("backend", names, indirect=True)


@pytest.fixture(scope="session")
def shim_module():
    """The shipped .cu files and their bindings, compiled for the CPU.

    REVELIO_SHIM_SANITIZE=1 compiles them with AddressSanitizer and UBSan, REVELIO_SHIM_CSRC takes other sources: both
    are for tests that start pytest themselves.
    """
    flags = shim.SANITIZERS if os.environ.get("REVELIO_SHIM_SANITIZE") == "1" else ()
    try:
        return shim.load(shim.build(Path(os.environ.get("REVELIO_SHIM_CSRC", shim.CSRC)), flags))
    except shim.ShimError as error:
        pytest.skip(str(error))


@pytest.fixture
def probed_anew() -> Iterator[None]:
    """What a test changes about backends is looked at, and forgotten after it."""
    dispatch.reset()
    yield
    dispatch.reset()


@pytest.fixture
def cuda_on_host(shim_module, monkeypatch, probed_anew):
    """Backend "cuda" takes CPU tensors and runs its kernels in the shim."""
    shim.schedule(shim_module, seed=0)
    monkeypatch.setattr(cuda_runtime, "load", lambda: shim_module)
    monkeypatch.setitem(dispatch.DEVICES, "cuda", {"cpu", "cuda"})
    return shim_module


@pytest.fixture
def backend(request) -> Iterator[str]:
    name, op = request.param, request.module.OP
    if name == "cuda":
        request.getfixturevalue("cuda_on_host")
    reasons = {status.reason for status in backends() if (status.op, status.backend) == (op, name)}
    if reasons != {""}:
        pytest.skip(f"backend {name!r} cannot run {op} here: {', '.join(reasons)}")
    with use_backend(name):
        yield name


@pytest.fixture
def on_threads() -> Iterator:
    """Call a function with 1 and with 2 threads and return both results."""
    before = torch.get_num_threads()

    def both(function):
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(function())
        return results

    yield both
    torch.set_num_threads(before)

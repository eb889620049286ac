"""Which backend runs an op: choice, environment, fallback with one warning, errors that say why."""

import subprocess
import sys
import threading
import warnings

import pytest
import torch

from revelio_fast.ops import (
    AdamRows,
    BackendError,
    adam_unit_norm_step_,
    backends,
    cpu_runtime,
    dispatch,
    sparse_decode,
    use_backend,
)
from revelio_fast.ops.adam_unit_norm_step import cpu as step_on_cpu
from revelio_fast.ops.sparse_backward import decode_backward
from revelio_fast.ops.sparse_decode import cpu as decode_on_cpu
from revelio_fast.ops.sparse_decode import reference
from tests.ops.cases import problem, random_code

pytestmark = pytest.mark.usefixtures("probed_anew")


@pytest.fixture
def decode():
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    return lambda: sparse_decode(code, p.W_dec, p.b_pre)


@pytest.fixture
def breaks(monkeypatch):
    """Make sparse_decode and adam_unit_norm_step_ on the CPU raise an error."""

    def broken(error: Exception) -> None:
        def fail(**arguments):
            raise error

        monkeypatch.setattr(decode_on_cpu, "sparse_decode", fail)
        monkeypatch.setattr(step_on_cpu, "adam_unit_norm_step_", fail)
        monkeypatch.setattr(cpu_runtime, "unavailable", str)

    return broken


@pytest.fixture
def broken(breaks):
    breaks(RuntimeError("no such instruction"))


def test_the_specification_is_always_there():
    table = backends()
    assert {status.op for status in table} == set(dispatch.OPS) and len(dispatch.OPS) == 9
    assert all(not status.reason for status in table if status.backend == "torch")


def test_every_device_has_a_kernel_of_its_own():
    for name in dispatch.OPS:
        for key in ("CPU", "CUDA", "CompositeExplicitAutograd"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"revelio_fast::{name}", key)


@pytest.mark.parametrize(
    "error", [RuntimeError("no such instruction"), TypeError("no such field"), OSError("no such file"), KeyError("x")]
)
def test_a_failing_backend_falls_back_once_with_one_warning(decode, breaks, error):
    breaks(error)
    with pytest.warns(RuntimeWarning) as warned:
        first = decode()
    (warning,) = warned
    assert "backend 'cpu' failed to run sparse_decode" in str(warning.message)
    assert f"{type(error).__name__}: {error}" in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(decode(), first)
    reasons = {(s.op, s.backend): s.reason for s in backends()}
    assert str(error) in reasons["sparse_decode", "cpu"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("std::bad_alloc"),
        ValueError("code.indices must lie in [0, 20), got 20"),
    ],
)
def test_memory_that_runs_out_and_wrong_arguments_are_raised_and_drop_nothing(decode, breaks, error):
    breaks(error)
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(type(error)) as raised:
                decode()
        assert raised.value is error
    assert dispatch.chosen("sparse_decode", "cpu") == "cpu"


def test_a_tensor_too_large_for_this_machine_drops_nothing(decode, monkeypatch):
    monkeypatch.setattr(decode_on_cpu, "sparse_decode", lambda **arguments: torch.empty(2**60))
    monkeypatch.setattr(cpu_runtime, "unavailable", str)
    with pytest.raises(RuntimeError, match=r"allocate|memory"):
        decode()
    assert dispatch.chosen("sparse_decode", "cpu") == "cpu"


def test_an_op_in_place_is_not_run_twice(broken):
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    rows = AdamRows.start(p.W_enc.clone(), p.W_dec, p.b_enc, p.b_pre)
    with pytest.raises(RuntimeError, match="no such instruction"):
        adam_unit_norm_step_(rows, p.x, code, torch.randn(4, 8), step=1, lr=0.1)
    assert torch.equal(rows.W_enc, p.W_enc)
    assert dispatch.chosen("adam_unit_norm_step_", "cpu") == "cpu"


def test_the_error_of_the_specification_is_raised(decode, broken, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("nor here")

    monkeypatch.setattr(reference, "sparse_decode", fail)
    with pytest.warns(RuntimeWarning, match="no such instruction"), pytest.raises(RuntimeError, match="nor here"):
        decode()


def test_asked_for_a_failing_backend_raises(decode, broken):
    with use_backend("cpu"), pytest.raises(RuntimeError, match="no such instruction"):
        decode()


def test_asked_for_a_backend_of_another_device_says_so(decode):
    with use_backend("cuda"), pytest.raises(BackendError, match="cannot run sparse_decode: it does not run on cpu"):
        decode()


def test_asked_for_a_backend_that_lacks_the_op_says_so(decode, monkeypatch):
    monkeypatch.setitem(dispatch.DEVICES, "cuda", {"cpu"})
    with use_backend("cuda"), pytest.raises(BackendError, match="sparse_decode: not implemented by 'cuda'"):
        decode()


def test_a_half_that_the_chosen_backend_lacks_runs_by_device():
    """Autograd calls it: whoever chose "triton" for the op has not asked for its gradient by "triton"."""
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    want = decode_backward(p.x, *code, p.W_dec)
    with use_backend("triton"):
        got = decode_backward(p.x, *code, p.W_dec)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_the_environment_chooses(decode, broken, monkeypatch):
    monkeypatch.setenv("REVELIO_BACKEND", "torch")
    decode()
    monkeypatch.setenv("REVELIO_BACKEND", "cpu")
    with pytest.raises(RuntimeError, match="no such instruction"):
        decode()
    with use_backend("auto"), pytest.warns(RuntimeWarning):
        decode()
    monkeypatch.setenv("REVELIO_BACKEND", "fastest")
    with pytest.raises(
        ValueError, match="REVELIO_BACKEND must be one of 'auto', 'torch', 'cpu', 'triton', 'cuda', got 'fastest'"
    ):
        decode()


def test_a_plain_call_holds_from_then_on(decode, broken):
    before = dispatch._chosen
    try:
        use_backend("torch")
        decode()
        found: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda: found.append(decode()))  # as autograd's
        thread.start()
        thread.join()
        assert len(found) == 1
        with use_backend("cpu"), pytest.raises(RuntimeError, match="no such instruction"):
            decode()
        decode()  # what held before the block holds after it
        use_backend("auto")
        with pytest.warns(RuntimeWarning):
            decode()
    finally:
        dispatch._chosen = before


def test_a_block_that_fails_restores_the_choice():
    before = dispatch._chosen
    with pytest.raises(ZeroDivisionError), use_backend("torch"):
        raise ZeroDivisionError
    assert dispatch._chosen == before


def test_what_would_run_is_known_beforehand(decode, broken, monkeypatch):
    assert dispatch.chosen("sparse_decode", "cpu") == "cpu"
    with pytest.warns(RuntimeWarning):
        decode()
    assert dispatch.chosen("sparse_decode", "cpu") == "torch"  # the other was dropped
    monkeypatch.setenv("REVELIO_BACKEND", "cpu")
    assert dispatch.chosen("sparse_decode", "cpu") == "cpu"
    with use_backend("torch"):
        assert dispatch.chosen("topk_encode", "cuda") == "torch"
    assert dispatch.chosen("topk_encode", "xpu") == "cpu"
    monkeypatch.delenv("REVELIO_BACKEND")
    assert dispatch.chosen("topk_encode", "xpu") == "torch"


def test_an_unknown_backend_is_named_at_once():
    with pytest.raises(ValueError, match=r"use_backend must be one of 'auto', 'torch'.*, got 'jax'"):
        use_backend("jax")
    assert dispatch._chosen is None


def test_a_missing_extension_is_a_reason(monkeypatch, decode):
    monkeypatch.setitem(sys.modules, "revelio_fast._C", None)
    reasons = {(s.op, s.backend): s.reason for s in backends()}
    assert "not built" in reasons["topk_encode", "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode()


def test_a_backend_is_probed_once(monkeypatch, decode):
    probes: list[int] = []
    monkeypatch.setattr(cpu_runtime, "unavailable", lambda: probes.append(1) or "not today")
    for _ in range(3):
        decode()
        dispatch.chosen("sparse_decode", "cpu")
    assert len(probes) == 1
    dispatch.reset()
    decode()
    assert len(probes) == 2


NAMES = """
import importlib, types
{first}
from revelio_fast.ops import {op}
assert isinstance({op}, types.FunctionType), {op}
import revelio_fast.ops.{op}.reference
from revelio_fast.ops.{op} import cpu, reference
from revelio_fast.ops.{op}.reference import {op} as specification
assert importlib.import_module("revelio_fast.ops.{op}.cpu") is cpu
import revelio_fast, revelio_fast.ops
from revelio_fast.ops import {op} as again
assert again is {op} is revelio_fast.ops.{op} and specification is reference.{op} is not {op}
"""


@pytest.mark.parametrize("first", ["", "import revelio_fast.ops.{op}.cpu", "from revelio_fast.ops.{op} import cpu"])
def test_an_op_is_a_function_and_its_folder_a_package(first):
    """Both have one name: whatever is imported first, revelio_fast.ops.<op> is the function."""
    ops = ("topk_encode", "sparse_decode", "sparse_residual", "invert_code", "sparse_backward")
    script = "".join(NAMES.format(op=op, first=first.format(op=op)) for op in ops)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

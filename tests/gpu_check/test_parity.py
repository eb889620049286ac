"""The checks that a GPU will run: right results pass, by every backend that can run here, wrong ones do not."""

import importlib

import pytest
import torch

from revelio_fast.gpu_check import parity
from revelio_fast.gpu_check.problems import SMALL, differing, off
from revelio_fast.ops import backends, cpu_runtime, dispatch, triton_runtime
from tests.ops.conftest import cuda_on_host, probed_anew, shim_module  # noqa: F401

ODD = SMALL[1:2]


@pytest.mark.parametrize("shapes", [ODD, pytest.param(SMALL, marks=pytest.mark.slow)], ids=["odd", "small"])
@pytest.mark.parametrize("op", parity.CHECKS)
def test_every_backend_passes(op, shapes, cuda_on_host, monkeypatch):  # noqa: F811
    monkeypatch.setattr(parity, "CHECKS", {op: parity.CHECKS[op]})
    here = {status.backend for status in backends() if status.op == op and not status.reason}
    findings = list(parity.parity("cpu", dispatch.BACKENDS, shapes))
    assert not [str(finding) for finding in findings if finding.passed is False]
    assert {finding.backend for finding in findings if finding.passed} == here
    assert sum(finding.passed is True for finding in findings) == len(here) * len(shapes)


def test_every_op_is_checked():
    assert set(parity.CHECKS) == set(dispatch.OPS)


def spoiled(op: str, at: int, change):
    """The reference of `op`, with one element of its result `at` changed."""
    module = importlib.import_module(f"{dispatch.OPS[op].package}.reference")
    right = getattr(module, op)

    def wrong(**arguments):
        result = right(**arguments)
        changed = (
            list(arguments.values())[at]
            if op.endswith("_")
            else (result if isinstance(result, tuple) else (result,))[at]
        )
        if changed.numel():
            changed.view(-1)[-1] = change(changed.view(-1)[-1])
        return result

    return wrong


def more(value):
    if not value.is_floating_point():
        return value + 1
    return value * (1 + 2**-10) + 1e-3 if value.isfinite() else torch.zeros_like(value)


def nan(value):
    return torch.full_like(value, torch.nan)


SPOILED = [
    *((op, at, more) for op, outputs in (
        ("topk_encode", 2), ("sparse_decode", 1), ("sparse_residual", 2), ("invert_code", 3), ("sparse_backward", 6),
        ("decode_backward", 2), ("encode_backward", 4), ("adam_unit_norm_step_", 12), ("top_activations_update_", 4),
    ) for at in range(outputs)),
    *((op, 0, nan) for op in ("topk_encode", "sparse_decode", "sparse_residual", "sparse_backward")),
]  # fmt: skip


@pytest.mark.parametrize(("op", "at", "change"), SPOILED)
def test_one_wrong_element_is_found(op, at, change, monkeypatch, probed_anew):  # noqa: F811
    module = importlib.import_module(f"{dispatch.OPS[op].package}.cpu")
    monkeypatch.setattr(module, op, spoiled(op, at, change))
    monkeypatch.setattr(cpu_runtime, "unavailable", str)
    monkeypatch.setattr(parity, "CHECKS", {op: parity.CHECKS[op]})
    (finding,) = parity.parity("cpu", ("cpu",), ODD)
    assert finding.passed is False and " is off by " in finding.words


def test_a_backend_that_raises_is_a_finding(monkeypatch, probed_anew):  # noqa: F811
    def lost(**arguments):
        raise RuntimeError("an illegal memory access was encountered")

    module = importlib.import_module("revelio_fast.ops.invert_code.cpu")
    monkeypatch.setattr(module, "invert_code", lost)
    monkeypatch.setattr(cpu_runtime, "unavailable", str)
    monkeypatch.setattr(parity, "CHECKS", {op: parity.CHECKS[op] for op in ("invert_code", "sparse_decode")})
    found = {finding.what.split()[0]: finding for finding in parity.parity("cpu", ("cpu",), ODD)}
    assert found["invert_code"].passed is False and "illegal memory access" in found["invert_code"].words
    assert found["sparse_decode"].passed and "FAIL" in str(found["invert_code"])


def test_a_backend_that_cannot_run_is_skipped_with_its_reason(monkeypatch, probed_anew):  # noqa: F811
    monkeypatch.setattr(triton_runtime, "unavailable", lambda: "there is no CUDA device")
    monkeypatch.setattr(parity, "CHECKS", {"sparse_decode": parity.CHECKS["sparse_decode"]})
    found = list(parity.parity("cpu", ("triton",), ODD))
    assert [(finding.passed, finding.words) for finding in found] == [(None, "there is no CUDA device")]


def test_nan_counts_unless_it_stands_on_both_sides():
    a, b = torch.tensor([1.0, torch.nan, torch.inf]), torch.tensor([1.0, torch.nan, torch.inf])
    assert off(a, b) == 0 and differing((a,), (b,)) == 0
    b[1] = 0
    assert off(a, b) == torch.inf and differing((a,), (b,)) == 1
    assert off(a, b[:2]) == torch.inf and differing((a,), (b[:2],)) == 3

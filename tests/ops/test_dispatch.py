"""Which backend runs an op: choice, environment, fallback with one warning, errors that say why."""

import sys
import warnings

import pytest
import torch

from revelio_fast.ops import BackendError, backends, dispatch, sparse_decode, use_backend
from tests.ops.cases import problem, random_code


@pytest.fixture
def decode():
    p, code = problem(4, 8, 20, 3), random_code(4, 20, 3)
    return lambda: sparse_decode(code, p.W_dec, p.b_pre)


@pytest.fixture
def broken(monkeypatch):
    """A CPU backend whose sparse_decode fails as an out-of-memory kernel would."""

    def fail(*arguments):
        raise RuntimeError("no memory left")

    module = pytest.importorskip("revelio_fast.ops.sparse_decode.cpu")
    monkeypatch.setattr(module, "sparse_decode", fail)
    monkeypatch.setattr(module, "unavailable", lambda: "")
    monkeypatch.setattr(dispatch, "_dropped", {})


def test_the_reference_is_always_there():
    table = backends()
    assert {status.op for status in table} == set(dispatch.TABLE)
    assert all(not status.reason for status in table if status.backend == "torch")


def test_a_failing_backend_falls_back_with_one_warning(decode, broken):
    with pytest.warns(RuntimeWarning, match="backend 'cpu' failed to run sparse_decode"):
        first = decode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(decode(), first)
    reasons = {(s.op, s.backend): s.reason for s in backends()}
    assert "no memory left" in reasons["sparse_decode", "cpu"]


def test_asked_for_a_failing_backend_raises(decode, broken):
    with use_backend("cpu"), pytest.raises(RuntimeError, match="no memory left"):
        decode()


def test_asked_for_a_backend_of_another_device_says_so(decode):
    with use_backend("cuda"), pytest.raises(BackendError, match="cannot run sparse_decode: it does not run on cpu"):
        decode()


def test_the_environment_chooses(decode, broken, monkeypatch):
    monkeypatch.setenv("REVELIO_BACKEND", "torch")
    decode()
    monkeypatch.setenv("REVELIO_BACKEND", "cpu")
    with pytest.raises(RuntimeError, match="no memory left"):
        decode()
    monkeypatch.setenv("REVELIO_BACKEND", "fastest")
    with pytest.raises(
        ValueError, match="REVELIO_BACKEND must be one of 'torch', 'cpu', 'triton', 'cuda', got 'fastest'"
    ):
        decode()


def test_what_would_run_is_known_beforehand(decode, broken, monkeypatch):
    assert dispatch.chosen("sparse_decode", "cpu") == "cpu"
    with pytest.warns(RuntimeWarning):
        decode()
    assert dispatch.chosen("sparse_decode", "cpu") == "torch"  # the other was dropped
    monkeypatch.setenv("REVELIO_BACKEND", "cpu")
    assert dispatch.chosen("sparse_decode", "cpu") == "cpu"
    with use_backend("torch"):
        assert dispatch.chosen("topk_encode", "cuda") == "torch"


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="use_backend must be one of"), use_backend("gpu"):
        pass


def test_a_missing_extension_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "revelio_fast._C", None)
    reasons = {(s.op, s.backend): s.reason for s in backends()}
    assert "not built" in reasons["topk_encode", "cpu"]

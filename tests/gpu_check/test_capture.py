"""The checks of CUDA graphs, on graphs played by CPU tensors: what is right passes, what is wrong is found."""

import pytest

from revelio_fast.gpu_check.capture import capture
from revelio_fast.gpu_check.problems import SMALL
from revelio_fast.ops import use_backend
from tests.fake_cuda import FakeCuda, FakeGraph

SHAPE = SMALL[1]


@pytest.fixture(autouse=True)
def _by_our_kernels():
    pytest.importorskip("revelio_fast._C", reason="the extension is not built")
    with use_backend("cpu"):
        yield


def test_graphs_give_the_bits_of_eager_runs():
    findings = {finding.what.split()[0]: finding for finding in capture("cpu", SHAPE, FakeCuda())}
    # on the CPU image ids are looked at, which a capture refuses: the check says so instead of passing
    readback = findings.pop("top_activations_update_")
    assert readback.passed is False and "a value was read back" in readback.words
    assert len(findings) == 5 and all(finding.passed for finding in findings.values()), findings


def test_a_graph_that_replays_nothing_is_found():
    class Lazy(FakeCuda):
        def CUDAGraph(self):
            graph = FakeGraph()
            graph.replay = lambda: None
            return graph

    findings = list(capture("cpu", SHAPE, Lazy()))
    assert not any(finding.passed for finding in findings)
    assert sum("elements differ from an eager run" in finding.words for finding in findings) == 5


def test_a_reference_without_fixed_sums_is_not_compared(monkeypatch):
    monkeypatch.setattr("revelio_fast.ops.dispatch.chosen", lambda op, device: "torch")
    *_, last = capture("cpu", SHAPE, FakeCuda())
    assert last.passed is None and "build revelio_fast._cuda" in last.words

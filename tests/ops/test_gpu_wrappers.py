"""The Python side of the GPU backends launches kernels and never waits for them: nothing is read back or copied over.

The GPU is played by the "meta" device, where reading a value raises, and launches are noted instead of made.
"""

import importlib

import pytest
import torch

from revelio_fast.ops import AdamRows, EncoderShadow, TopState, checks, cuda_runtime, dispatch
from tests.fake_cuda import Syncs

B, D, K, M = 6, 20, 4, 3


class Launches:
    """Stands for the CUDA module: every function is noted by name and returns a number of bytes."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __getattr__(self, name: str):
        def function(*arguments, **more):
            self.names.append(name)
            return 1 << 20

        return function


@pytest.fixture
def launches(monkeypatch) -> Launches:
    noted = Launches()
    monkeypatch.setattr(cuda_runtime, "load", lambda: noted)
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def run(kernel, *arguments, grid, warmup, **options):
        noted.names.append(kernel.fn.__name__)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", run)
    return noted


def arguments(op: str, N: int = 300) -> tuple:
    """What an op is called with."""
    with torch.device("meta"):
        x, grad, W, b_enc, b_pre = (
            torch.empty(B, D),
            torch.empty(B, D),
            torch.empty(N, D),
            torch.empty(N),
            torch.empty(D),
        )
        values, indices = torch.empty(B, K), torch.empty(B, K, dtype=torch.int64)
        offsets, rows = torch.empty(N + 1, dtype=torch.int64), torch.empty(B * K, dtype=torch.int64)
        inverse = (offsets, rows, rows.clone())
        shadow = EncoderShadow.of(W)
        adam, top = AdamRows.start(W, W.clone(), b_enc, b_pre), TopState.empty(N, M)
        skip_mask = torch.empty(N, dtype=torch.uint8)
        constants = (1, 1e-3, 0.9, 0.999, 1e-8, False, True, True, grad, 1, *shadow, torch.empty(2), skip_mask)
        return {
            "topk_encode": (x, W, b_enc, b_pre, K, False, "fp32", *shadow),
            "sparse_decode": (values, indices, W, b_pre),
            "sparse_residual": (values, indices, W, b_pre, x),
            "invert_code": (indices, N),
            "sparse_backward": (x, values, indices, grad, W, W, b_pre, *inverse, True, True, grad, 1),
            "decode_backward": (grad, values, indices, W),
            "encode_backward": (x, values, indices, W, b_pre, True),
            "adam_unit_norm_step_": (*adam, x, values, indices, grad, *inverse, *constants),
            "top_activations_update_": (*top, values, indices, torch.empty(B, dtype=torch.int64), *inverse),
        }[op]


def implementation(op: str, module: str):
    """The function of an op in one of its modules."""
    return getattr(importlib.import_module(f"{dispatch.OPS[op].package}.{module}"), op)


@pytest.mark.parametrize("n", [300, 40])  # with 40 latents topk_encode scores every row in full
@pytest.mark.parametrize("op", dispatch.OPS)
def test_the_preferred_backend_never_waits_for_the_gpu(op, n, launches):
    function = implementation(op, dispatch.OPS[op].preferred["cuda"])
    given = dict(zip(dispatch.OPS[op].arguments, arguments(op, n), strict=True))
    with Syncs() as syncs:
        function(**given)
    assert not syncs.found and launches.names


def test_the_search_finds_a_value_that_is_read_back(launches):
    with pytest.raises(Exception, match=r"meta|item"):
        implementation("topk_encode", "reference")(*arguments("topk_encode"))
    indices = arguments("invert_code")[0]
    checks.indices_in_range(indices, 300)
    with pytest.raises(RuntimeError, match="item"):
        bool(indices.amax() >= 300)

"""topk_encode against torch's float32 product and topk."""

import pytest
import torch

from bench.problems import Inputs, Shape, inputs
from revelio_fast import ops


def variants(p: Inputs, shape: Shape) -> dict:
    """Name -> the scores kept, in order."""

    def plain():
        return torch.addmm(p.b_enc, p.x - p.b_pre, p.W_enc.T).topk(shape.k).values

    def ours(backend, precision):
        def run():
            with ops.use_backend(backend):
                return ops.topk_encode(p.x, p.W_enc, p.b_enc, p.b_pre, shape.k, precision=precision).values

        return run

    return {
        "torch matmul + topk": plain,
        "revelio_fast cpu fast": ours("cpu", "fast"),
        "revelio_fast cpu fp32": ours("cpu", "fp32"),
        "revelio_fast torch": ours("torch", "fp32"),
    }


@pytest.mark.parametrize(
    "name", ["torch matmul + topk", "revelio_fast cpu fast", "revelio_fast cpu fp32", "revelio_fast torch"]
)
def test_topk_encode(benchmark, name):
    shape = Shape(256, 320, 4096, 32)
    benchmark(variants(inputs(shape), shape)[name])

"""sparse_decode against a dense product (the authors' code) and torch's embedding_bag."""

import pytest
import torch.nn.functional as F

from bench.limits import Work
from bench.problems import Inputs, Shape, dense_code, inputs
from revelio_fast import ops


def variants(p: Inputs, shape: Shape) -> dict:
    """Name -> x_hat."""

    def dense():
        return dense_code(p) @ p.W_dec + p.b_pre

    def bag():
        return F.embedding_bag(p.code.indices, p.W_dec, mode="sum", per_sample_weights=p.code.values) + p.b_pre

    def ours(backend):
        def run():
            with ops.use_backend(backend):
                return ops.sparse_decode(p.code, p.W_dec, p.b_pre)

        return run

    return {
        "torch dense": dense,
        "torch embedding_bag": bag,
        "revelio_fast cpu": ours("cpu"),
        "revelio_fast torch": ours("torch"),
    }


def least_bytes(shape: Shape) -> Work:
    """One decoder row for each entry of the code, the code, and x_hat written."""
    B, d, _, k = shape
    return {"read": B * k * (4.0 * d + 12), "update": 4.0 * B * d}


@pytest.mark.parametrize("name", ["torch dense", "torch embedding_bag", "revelio_fast cpu", "revelio_fast torch"])
def test_sparse_decode(benchmark, name):
    shape = Shape(256, 320, 4096, 32)
    benchmark(variants(inputs(shape), shape)[name])

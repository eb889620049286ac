"""sparse_residual against decode, subtraction and sum of squares as three passes of PyTorch."""

import pytest
import torch.nn.functional as F

from bench.limits import Work
from bench.problems import Inputs, Shape, dense_code, inputs
from revelio_fast import ops


def variants(p: Inputs, shape: Shape) -> dict:
    """Name -> the sum of squares of each row's residual."""

    def dense():
        return (dense_code(p) @ p.W_dec + p.b_pre - p.x).square().sum(1)

    def bag():
        x_hat = F.embedding_bag(p.code.indices, p.W_dec, mode="sum", per_sample_weights=p.code.values) + p.b_pre
        return (x_hat - p.x).square().sum(1)

    def ours(backend):
        def run():
            with ops.use_backend(backend):
                return ops.sparse_residual(p.code, p.W_dec, p.b_pre, p.x).squares

        return run

    return {
        "torch dense": dense,
        "torch embedding_bag": bag,
        "revelio_fast cpu": ours("cpu"),
        "revelio_fast torch": ours("torch"),
    }


def least_bytes(shape: Shape) -> Work:
    """One decoder row for each entry of the code, the code, x, and the residual written."""
    B, d, _, k = shape
    return {"read": B * k * (4.0 * d + 12) + 4.0 * B * d, "update": 4.0 * B * d}


@pytest.mark.parametrize("name", ["torch dense", "torch embedding_bag", "revelio_fast cpu", "revelio_fast torch"])
def test_sparse_residual(benchmark, name):
    shape = Shape(256, 320, 4096, 32)
    benchmark(variants(inputs(shape), shape)[name])

"""top_activations_update_ against torch.topk over the dense activations of the batch and the state."""

import pytest
import torch

from bench.problems import Inputs, Shape, dense_code, inputs
from revelio_fast import ops

M = 20


def variants(p: Inputs, shape: Shape) -> dict:
    """Name -> the values of the updated state; image ids as in the batch before (a state that is full)."""
    image_ids = torch.arange(shape.B)

    def state():
        full = ops.TopState.empty(shape.n, M)
        full.values.copy_(torch.linspace(0.9, 0.3, M).expand(shape.n, M))
        full.image_ids.copy_(torch.arange(M).expand(shape.n, M) + shape.B)
        return full

    held = state()

    def dense():
        both = torch.cat([held.values, dense_code(p).T], 1)
        ids = torch.cat([held.image_ids, image_ids.expand(shape.n, shape.B)], 1)
        best = both.topk(M, dim=1)
        ids.gather(1, best.indices)
        return best.values

    def ours(backend):
        own = state()

        def run():
            with ops.use_backend(backend):
                ops.top_activations_update_(own, p.code, image_ids)
            return own.values

        return run

    return {"torch dense topk": dense, "revelio_fast cpu": ours("cpu"), "revelio_fast torch": ours("torch")}


@pytest.mark.parametrize("name", ["torch dense topk", "revelio_fast cpu", "revelio_fast torch"])
def test_top_activations_update(benchmark, name):
    shape = Shape(256, 32, 4096, 32)
    benchmark(variants(inputs(shape), shape)[name])

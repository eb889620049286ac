"""top_activations_update_ against torch.topk over the dense activations of the batch and the state."""

from typing import Any

import pytest
import torch

from bench.limits import Work
from bench.measure import compare
from bench.problems import Inputs, Shape, dense_code, inputs
from revelio_fast import TopActivations, ops

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


def least_bytes(shape: Shape) -> Work:
    """The code, its image ids and its inverse (rows, slots, offsets); the m-th value, sum and count of each latent."""
    B, _, n, k = shape
    return {"read": B * (k * (4.0 + 8 + 16) + 8) + n * (8.0 + 4), "update": n * 2 * 16.0}


def more(p: Inputs, shape: Shape, repeats: int) -> list[dict[str, Any]]:
    """`TopActivations.update` just after the encode whose code it takes, and its share of that encode's time."""
    tops, image_ids = TopActivations(shape.n, M), torch.arange(shape.B)
    found: list[ops.Code] = []

    def encode():
        with ops.use_backend("cpu"):
            found[:] = [ops.topk_encode(p.x, p.W_enc, p.b_enc, p.b_pre, shape.k, relu=True, precision="fast")]
        return found[0].values

    def update():
        with ops.use_backend("cpu"):
            tops.update(found[0], image_ids + tops.n_images)
        return found[0].values

    rows = compare("top while encoding", str(shape), {"encode, fast": encode, "TopActivations.update": update}, repeats)
    rows[1]["share_of_encode"] = rows[1]["median_s"] / rows[0]["median_s"]
    return rows


@pytest.mark.parametrize("name", ["torch dense topk", "revelio_fast cpu", "revelio_fast torch"])
def test_top_activations_update(benchmark, name):
    shape = Shape(256, 32, 4096, 32)
    benchmark(variants(inputs(shape), shape)[name])

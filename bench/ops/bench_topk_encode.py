"""topk_encode against torch's product and topk, in float32, bf16 and compiled, and faiss's exact search."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.limits import Work, fastest_unit, unit_of_ours
from bench.measure import Lazy, compiled
from bench.peers.packages import FAISS, load
from bench.problems import Inputs, Shape, inputs
from revelio_fast import ops

OURS = {f"revelio_fast cpu {precision}": precision for precision in ("fast", "fp32", "bf16")}


def torch_encode(p: Inputs, shape: Shape, *, bf16: bool = False, compile: bool = False):
    """Matrix product and topk; in bf16 with weights that were rounded before."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    W_enc, b_enc = p.W_enc.to(dtype), p.b_enc.to(dtype)

    @torch.no_grad()
    def encode() -> Any:
        return torch.addmm(b_enc, (p.x - p.b_pre).to(dtype), W_enc.T).topk(shape.k)

    return compiled(encode) if compile else encode


def faiss_encode(p: Inputs, shape: Shape):
    """Exact inner-product search of ``[x - b_pre, 1]`` among ``[W_enc, b_enc]``; has an OpenMP runtime of its own."""
    faiss = load(FAISS)
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(shape.d + 1)
    index.add(torch.cat([p.W_enc, p.b_enc[:, None]], 1).numpy())

    def run() -> tuple[Tensor, Tensor]:
        queries = torch.cat([p.x - p.b_pre, torch.ones(shape.B, 1)], 1)
        values, indices = index.search(queries.numpy(), shape.k)
        return torch.from_numpy(values), torch.from_numpy(indices)

    return run


def variants(p: Inputs, shape: Shape) -> dict:
    """Name -> the scores kept, in order."""

    def values(build, **options):
        def built():
            encode = build(p, shape, **options)
            return lambda: encode()[0].float()

        return Lazy(built)

    def ours(backend, precision):
        def run():
            with ops.use_backend(backend):
                return ops.topk_encode(p.x, p.W_enc, p.b_enc, p.b_pre, shape.k, precision=precision).values

        return run

    return {
        "torch matmul + topk": values(torch_encode),
        "torch bf16": values(torch_encode, bf16=True),
        "torch compile": values(torch_encode, compile=True),
        "torch compile bf16": values(torch_encode, compile=True, bf16=True),
        "faiss IndexFlatIP": values(faiss_encode),
        **{name: ours("cpu", precision) for name, precision in OURS.items()},
        "revelio_fast torch": ours("torch", "fp32"),
    }


def encode_work(unit: str, shape: Shape) -> Work:
    """2 B n d operations at that unit."""
    return {unit: 2.0 * shape.B * shape.n * shape.d}


def works(shape: Shape) -> dict[str, Work]:
    """Each variant's at the unit that does most of it; faiss and torch take the widest there is."""
    units = {name: unit_of_ours(precision, *shape) for name, precision in OURS.items()}
    for name in ("torch matmul + topk", "torch compile", "faiss IndexFlatIP", "revelio_fast torch"):
        units[name] = fastest_unit("float32")
    units["torch bf16"] = units["torch compile bf16"] = fastest_unit("bf16")
    return {name: encode_work(unit, shape) for name, unit in units.items()}


@pytest.mark.parametrize("name", ["torch matmul + topk", "torch bf16", *OURS, "revelio_fast torch"])
def test_topk_encode(benchmark, name):
    shape = Shape(256, 320, 4096, 32)
    benchmark(variants(inputs(shape), shape)[name])

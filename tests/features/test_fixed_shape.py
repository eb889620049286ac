"""The fixed-shape forward: plain on the CPU; on a GPU the captured graph gives what the eager run gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from revelio_fast.features import FeatureExtractor
from revelio_fast.features.fixed_shape import FixedShapeForward
from tests.fake_cuda import FakeCuda, Syncs
from tests.tiny import picture


def test_on_the_cpu_the_function_itself_is_called() -> None:
    calls = []

    def function(
        noisy: torch.Tensor, timesteps: torch.Tensor, told: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        calls.append((noisy, timesteps, told["text"]))
        return {"sum": noisy.sum() + timesteps.sum() + told["text"].sum()}

    forward = FixedShapeForward(function, torch.device("cpu"))
    noisy, timesteps = torch.ones(2, 3), torch.tensor([4, 5])
    text = torch.ones(2)
    assert forward(noisy, timesteps, {"text": text})["sum"] == 17
    assert all(mine is given for mine, given in zip(calls[0], (noisy, timesteps, text), strict=True))


@pytest.mark.parametrize("pool", [True, False])
def test_replays_give_the_bits_of_eager_runs(tiny_sd: Path, pool: bool) -> None:
    """Capture and replay on CPU tensors: one graph a shape, new inputs copied in, outputs copied out."""
    captured, eager = (FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck", "up_ft1"], [25, 200]) for _ in range(2))
    cuda = FakeCuda()
    for name in ("pooled", "maps"):
        function = getattr(captured._features, name)._function
        setattr(captured._features, name, FixedShapeForward(function, captured.device, capture=True, cuda=cuda))
    batches = [[picture(i) for i in range(start, start + size)] for start, size in ((0, 4), (4, 4), (8, 2))]
    kept = [captured.extract(images, pool=pool) for images in batches]
    for images, found in zip(batches, kept, strict=True):
        for key, expected in eager.extract(images, pool=pool).items():
            assert torch.equal(found[key], expected), key
    assert [graph.replays for graph in cuda.graphs] == [4, 2]  # two batches of four images, one of two; two timesteps


def test_the_forward_never_waits_for_the_gpu(tiny_sd: Path) -> None:
    extractor = FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck", "up_ft1"], [25])
    family = extractor.family
    family.network.to("meta")
    family._spec = dataclasses.replace(family._spec, device=torch.device("meta"))
    noisy = torch.empty(2, *family.latent_shape, device="meta")
    told = {name: torch.empty(2, *rows.shape[1:], device="meta") for name, rows in family.embed([""]).items()}
    with Syncs() as syncs:
        extractor._features.pooled._function(noisy, torch.empty(2, dtype=torch.int64, device="meta"), told)
    assert not syncs.found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("pool", [True, False])
def test_a_captured_graph_equals_the_eager_run(tiny_sd: Path, pool: bool) -> None:
    captured, eager = (
        FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck", "up_ft1"], [25, 200], device="cuda") for _ in range(2)
    )
    eager._features.pooled._capture = eager._features.maps._capture = False
    first = [picture(i) for i in range(4)]
    second = [picture(i) for i in range(4, 8)]
    kept = captured.extract(first, pool=pool)
    for images, found in ((second, captured.extract(second, pool=pool)), (first, kept)):
        for key, expected in eager.extract(images, pool=pool).items():
            torch.testing.assert_close(found[key], expected)

"""Another family through commands and a whole run: DiT, compiled by PyTorch's own backend, in the authors' mode."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

from revelio_fast.config import parse_config
from revelio_fast.pipeline import run
from revelio_fast.store import ActivationStore
from tests.pipeline.test_cli import fails, works
from tools.make_random_model import save_random_model


@pytest.fixture(scope="module")
def tiny_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model("dit", tmp_path_factory.mktemp("pipeline") / "dit", "tiny", torch.float32)


def test_commands(tiny_dit: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = functools.partialmethod(torch.nn.Module.compile, backend="eager")
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    shown = works("layers", tiny_dit)
    assert "block0" in shown and "block3" in shown and "32 x 4 x 4" in shown
    features = {}
    for name, flags in (("plain", []), ("authors", ["--compat", "authors", "--compile"])):
        given = [pictures, "--model", tiny_dit, "--layers", "block1", "--timesteps", "25", "--limit", 4, "-q", *flags]
        assert "4 features of width 32 (block1, t=25)" in works("extract", *given, "--out", tmp_path / name)
        store = ActivationStore.open(tmp_path / name / "block1" / "t25")
        marks = [store.metadata.get(name) for name in ("compat", "compile")]
        assert marks == (["authors", True] if flags else [None, None])
        features[name] = store.features()
    assert not torch.allclose(features["plain"], features["authors"], atol=1e-2)
    shown = fails("extract", pictures, "--model", tiny_dit, "--layers", "bottleneck", "--out", tmp_path / "x")
    assert "'bottleneck' is not a layer of" in shown and "block0 32x4x4, block1 32x4x4" in shown


def test_a_whole_run(tiny_dit: Path, settings: str, tmp_path: Path) -> None:
    changes = [f"model={tiny_dit}", "layers=[block1]", "compat=authors", "sae.k=8", "baselines.random_weights=false"]
    run(parse_config(settings, overrides=changes), progress=False)
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "run").rglob("manifest.json")]
    abouts = [manifest.get("metadata", {}) for manifest in manifests]
    assert any(about.get("layer") == "block1" for about in abouts)
    assert all(about.get("compat") == "authors" for about in abouts if about.get("layer") == "block1")

"""Flags made from settings, old flags, warnings as one line, and JSON output."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from revelio_fast.ksae import KSAEConfig
from revelio_fast.settings import types_of
from revelio_fast.store import ActivationStore
from tests.pipeline.test_cli import command, fails, works


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty labelled random features of width 8."""
    folder = tmp_path_factory.mktemp("options") / "store"
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    ActivationStore.from_tensors(folder, features, torch.arange(60), torch.arange(60) % 3)
    return folder


QUICK = ["--k", 4, "--expansion-factor", 2, "--steps", 3, "--warmup-steps", 1, "--batch-size", 20]


def test_every_setting_of_the_k_sae_is_a_flag() -> None:
    shown = works("train-sae", "--help")
    for name in types_of(KSAEConfig):
        assert f"--{name.replace('_', '-')} " in shown
    assert "--holdout" not in shown and "Weight of the AuxK loss." in shown


def test_old_flags_work_with_a_note(store: Path, tmp_path: Path) -> None:
    train = ["train-sae", store, *QUICK, "-q"]
    old = command(*train, "--out", tmp_path / "old", "--holdout", 0.2, "--set", "semantics=official")
    assert old.exit_code == 0, old.output
    assert old.stderr.splitlines() == [
        "Note: --holdout is called --val-fraction now: use --val-fraction, the old name goes with the next release",
        "Note: --set semantics is called compat now: use compat='authors', the old name goes with the next release",
    ]
    works(*train, "--out", tmp_path / "new", "--val-fraction", 0.2, "--compat", "authors")
    old_files, new_files = (tmp_path / name / "metrics.json" for name in ("old", "new"))
    assert old_files.read_text() == new_files.read_text() and '"val_fraction": 0.2' in new_files.read_text()
    tops = ["top-images", tmp_path / "new", store, "-q", "--out", tmp_path / "tops.safetensors"]
    found = command(*tops, "--ranking", "official")
    assert found.exit_code == 0 and "use --compat authors" in found.stderr
    assert "ranking must be one of" not in found.stderr
    assert "--ranking is 'best'" in fails(*tops, "--ranking", "best", code=2)


def test_old_flags_of_an_extraction(tiny_sd: Path, pictures: Path, tmp_path: Path) -> None:
    given = ["extract", pictures, "--model", tiny_sd, "--layers", "bottleneck", "--timesteps", 25, "--limit", 2, "-q"]
    crops = ["--maps", "--out", tmp_path / "maps", "--variants", 1, "--least-area", 0.5, "--no-mirror"]
    found = command(*given, *crops)
    assert found.exit_code == 0 and "1 random crops of each" in found.stdout
    assert "--variants is called --num-crops now" in found.stderr
    (manifest,) = (tmp_path / "maps").rglob("variants/*/manifest.json")
    crop = json.loads(manifest.read_text())["metadata"]["crop"]
    assert (crop["least_area"], crop["mirror"]) == (0.5, False)
    shown = fails(*given, "--out", tmp_path / "x", "--official")
    assert "--compat authors reproduces what the authors' code does to DiT" in shown


def test_the_old_way_to_train_on_fresh_crops_says_the_new_one(tmp_path: Path) -> None:
    old = ["train-diffc", "photos", "--out", tmp_path / "x", "--cache", "none", "--layer", "up_ft1"]
    assert "train-diffc-online PHOTOS --layer LAYER --timestep T" in fails(*old, code=2)
    assert "There is no activation store at nowhere" in fails("train-diffc", "nowhere", "--out", "x", "--cache", "maps")


def test_broken_images_in_the_words_of_the_command_line(tiny_sd: Path, pictures: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    (copy / "dark" / "03.png").write_text("not a picture")
    given = ["extract", copy, "--model", tiny_sd, "--layers", "bottleneck", "--timesteps", 25]
    assert "or pass --on-error skip to leave" in fails(*given, "--out", tmp_path / "a", "-q")
    (tmp_path / "run.yaml").write_text(
        f"model: {tiny_sd}\nsource: {{spec: {copy}}}\nlayers: bottleneck\nsae: {{k: 4}}\n"
    )
    shown = fails("run", tmp_path / "run.yaml", "--out", tmp_path / "run", "-q")
    assert "or pass --set on_error=skip to leave" in shown
    loud = command(*given, "--out", tmp_path / "b", "--on-error", "skip")
    assert re.search(r"^Warning: 1 broken images were skipped: \S*03\.png$", loud.stderr, re.MULTILINE)
    assert "warnings.warn" not in loud.stderr and "1 broken images were skipped" in loud.stdout
    quiet = command(*given, "--out", tmp_path / "c", "--on-error", "skip", "-q")
    assert quiet.exit_code == 0 and quiet.stderr == "" and "1 broken images were skipped" in quiet.stdout


def test_json(store: Path, tiny_sd: Path, tmp_path: Path) -> None:
    trained = json.loads(works("train-sae", store, *QUICK, "--out", tmp_path / "sae", "-q", "--json"))
    assert trained["l0"] == 4 and trained["model"] == str(tmp_path / "sae" / "model")
    tops = ["top-images", tmp_path / "sae", store, "--out", tmp_path / "t.safetensors", "-q", "--json"]
    assert json.loads(works(*tops))["latents"] == 16
    judged = json.loads(works("purity", tmp_path / "t.safetensors", store, "--permutations", 5, "--json"))
    assert 0 <= judged["majority_share"] <= 1 and judged["n_classes"] == 3
    layers = json.loads(works("layers", tiny_sd, "--json"))
    assert {"name": "bottleneck", "shape": [64, 2, 2]}.items() <= next(
        r for r in layers if r["name"] == "bottleneck"
    ).items()
    assert json.loads(works("datasets", "--json"))["pets"]["n_classes"] == 37
    assert {"op", "device", "backend", "runs"} == set(json.loads(works("doctor", "--json"))["ops"][0])


def test_a_model_that_is_not_there_prints_no_table() -> None:
    assert command("layers", "nope").stdout == ""
    assert json.loads(works("layers", "--json"))[0]["name"] == "down_ft0"

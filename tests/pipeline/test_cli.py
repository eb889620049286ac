"""The command line through typer's runner: each command on real files, and errors as one sentence."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from revelio_fast.cli.app import app
from revelio_fast.concepts import TopActivations
from revelio_fast.data import open_source
from revelio_fast.store import ActivationStore


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def works(*arguments: object) -> str:
    result = command(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def fails(*arguments: object, code: int = 1) -> str:
    result = command(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return re.sub(r"[\s│]+", " ", result.stderr)


@pytest.fixture(scope="module")
def extracted(tiny_sd: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pooled features and maps of the pictures, made by the command."""
    root = tmp_path_factory.mktemp("extracted")
    shared = [
        pictures, "--model", tiny_sd, "--layers", "bottleneck,up_ft0", "--timesteps", "25", "--batch-size", 10, "-q"
    ]  # fmt: skip
    assert "40 features of width 64" in works("extract", *shared, "--out", root / "pooled")
    assert "40 maps [64, 2, 2] (bottleneck, t=25)" in works("extract", *shared, "--out", root / "maps", "--maps")
    return root


def test_step_by_step(extracted: Path, pictures: Path, tmp_path: Path) -> None:
    store = extracted / "pooled" / "bottleneck" / "t25"
    assert ActivationStore.open(store).metadata["class_names"] == ["dark", "light"]
    sae, tops = tmp_path / "sae", tmp_path / "tops.safetensors"
    train = ["train-sae", store, "--out", sae, "--k", 24, "--expansion-factor", 1, "--steps", 40, "-q"]
    shown = works(*train, "--set", "warmup_steps=5", "--set", "engine=autograd")
    assert "l0: 24" in shown and (sae / "model" / "config.json").is_file()

    shown = works("top-images", sae, store, "--out", tops, "-q", "--sheets", tmp_path / "sheets", "--source", pictures)
    assert "64 latents" in shown and list((tmp_path / "sheets").rglob("*.png"))

    listed = json.loads(tops.with_suffix(".json").read_text())
    strongest = listed[0]["images"][0]
    loaded = TopActivations.load(tops)
    assert strongest["image_id"] == int(loaded.image_ids[listed[0]["latent"], 0])
    assert strongest["file"].endswith(".png") and strongest["class_name"] in strongest["file"]
    rows = tops.with_suffix(".csv").read_text().splitlines()
    assert rows[0] == "latent,place,image_id,file,activation,label,class_name"
    assert rows[1].startswith(f"{listed[0]['latent']},1,{strongest['image_id']},")
    assert "best-ranked latents with their images" in shown

    shown = works("purity", tops, store, "--top-images", 5, "--permutations", 20, "--out", tmp_path / "purity.json")
    values = json.loads((tmp_path / "purity.json").read_text())
    assert "majority_share" in shown and f"{values['majority_share']:.4f}" in shown

    shown = works(
        "train-diffc", extracted / "maps" / "bottleneck" / "t25", "--out", tmp_path / "diffc", "--width", 8,
        "--epochs", 2, "--lr", 0.001, "-q",
    )  # fmt: skip
    assert "8 of 40 maps are held out" in shown and "8 maps, commonest class 50.00%" in shown
    assert (tmp_path / "diffc" / "confusion.csv").is_file()
    shown = works("classify", tmp_path / "diffc", pictures, "--out", tmp_path / "p.csv", "--top", 1, "-q")
    assert "40 images, accuracy" in shown and "s an image (40 timed)" in shown
    assert (
        (tmp_path / "p.csv")
        .read_text()
        .startswith("image_id,content,path,label,predicted,label_number,predicted_number,class_1,probability_1\n")
    )
    about = json.loads((tmp_path / "p.json").read_text())
    assert about["settings"]["features"]["model"] == str(ActivationStore.open(store).metadata["model"])


def test_both_ways_of_fresh_crops(tiny_sd: Path, pictures: Path, tmp_path: Path) -> None:
    shared = ["--model", tiny_sd, "--batch-size", 8, "-q"]
    where = ["--layers", "up_ft2", "--timesteps", "0"]
    shown = works("extract", pictures, *where, *shared, "--maps", "--num-crops", 2, "--out", tmp_path / "maps")
    assert "40 maps [32, 8, 8] (up_ft2, t=0), 2 random crops of each" in shown
    train = ["--out", tmp_path / "cached", "--width", 8, "--epochs", 2, "--lr", 0.001, "-q"]
    shown = works("train-diffc", tmp_path / "maps" / "up_ft2" / "t0", *train, "--head", "resnet")
    assert "through 2 random crops of each image" in shown and "SD features: test accuracy" in shown
    assert json.loads((tmp_path / "cached" / "model" / "config.json").read_text())["model_type"] == "resnet"
    train = ["--out", tmp_path / "fresh", "--width", 8, "--epochs", 2, "--lr", 0.001, "-q", "--model", tiny_sd]
    shown = works("train-diffc-online", pictures, *train, "--layer", "up_ft2", "--timestep", 0)
    assert "8 of 40 images are held out" in shown and "Diff-C: test accuracy" in shown
    features = json.loads((tmp_path / "fresh" / "model" / "config.json").read_text())["features"]
    assert (features["layer"], features["timestep"], features["model"]) == ("up_ft2", 0, str(tiny_sd))


def test_zero_shot(tiny_sd: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "z.csv"
    judge = ["zero-shot", pictures, "--model", tiny_sd, "--limit", 4, "--samples", 2, "--keep", 1, "--out", out, "-q"]
    shown = works(*judge, "--template", "a {} picture")
    assert "4 images, accuracy" in shown and "4 with labels" in shown
    settings = json.loads(out.with_suffix(".json").read_text())["settings"]
    assert settings["prompts"] == ["a dark picture", "a light picture"] and settings["samples"] == [2]
    assert out.read_text().splitlines()[0].endswith("class_1,error_1,class_2,error_2")
    assert "made with other settings" in fails(*judge)
    names = tmp_path / "names.txt"
    names.write_text("night\nday\n")
    works(*judge, "--out", tmp_path / "named.csv", "--classes", names)
    assert json.loads((tmp_path / "named.json").read_text())["settings"]["classes"] == ["night", "day"]
    flat = ["zero-shot", pictures / "dark", "--model", tiny_sd, "-q"]
    assert "has no class names: list them in a file" in fails(*flat, code=2)


def test_prompts_of_an_extraction(tiny_sd: Path, tiny_clip: Path, pictures: Path, tmp_path: Path) -> None:
    shared = [pictures, "--model", tiny_sd, "--layers", "bottleneck", "-q", "--limit", 6]
    asked = ["--prompt-from-clip", tiny_clip, "--prompt-template", "my {}"]
    shown = works("extract", *shared, "--out", tmp_path / "clip", *asked)
    assert re.search(r"zero-shot accuracy \d+\.\d\d% of 6 images", shown)
    about = ActivationStore.open(tmp_path / "clip" / "bottleneck" / "t25").metadata["prompt"]
    assert (about["mode"], about["model"], about["prompt"]) == ("from_clip", str(tiny_clip), "my {}")
    works("extract", *shared, "--out", tmp_path / "true", "--prompt-template", "a {} picture")
    (record,) = (tmp_path / "true").glob("prompts-*.csv")
    assert [line.rsplit(",")[-1] for line in record.read_text().splitlines()[1:]] == [
        f"a {name} picture" for name in ["dark"] * 3 + ["light"] * 3
    ]
    told = tmp_path / "told.csv"
    told.write_text("name,prompt\n" + "".join(f"{name},text\n" for name in open_source(pictures).names))
    shown = works("extract", *shared, "--out", tmp_path / "file", "--prompt-file", told, "--maps")
    assert "6 maps" in shown and "zero-shot" not in shown
    both = ["--prompt-file", told, "--prompt", "a cat"]
    shown = fails("extract", *shared, "--out", tmp_path / "x", *both, code=2)
    assert "--prompt is one text for all images, but a prompt for each image is asked for" in shown
    assert "it has no columns" in fails("extract", *shared, "--out", tmp_path / "x", "--prompt-column", "caption")


def test_run_and_overrides(settings: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(settings)
    quick = ["--set", "diffc.enabled=false", "--set", "baselines.random_weights=false", "--set", "baselines.sae=false"]
    shown = works("run", file, *quick, "--out", tmp_path / "else", "-q")
    assert "bottleneck t=25" in shown and str(tmp_path / "else" / "report" / "report.md") in shown
    assert not (tmp_path / "run").exists()


def test_layers(tiny_sd: Path) -> None:
    shown = works("layers", tiny_sd)
    assert "bottleneck" in shown and "up_ft2" in shown and "64 x 2 x 2" in shown and "100%" in shown


def test_datasets() -> None:
    shown = works("datasets")
    assert "licences are given as published, unchecked" in shown
    assert "flowers102: Oxford Flowers-102" in shown and "timm/oxford-iiit-pet (columns image, label)" in shown
    assert "train 1,020, validation 1,020, test 6,149; 102 classes" in shown and "$REVELIO_DATA/NAME" in shown


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REVELIO_BACKEND", raising=False)
    shown = works("doctor")
    assert torch.__version__ in shown and "topk_encode" in shown and "yes, used" in shown
    assert f"{torch.get_num_threads()} (torch)" in shown
    assert works("--version").startswith("revelio-fast ")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["run", "missing.yaml"], "There is no file missing.yaml"),
        (["train-sae", "nowhere", "--out", "x"], "nowhere"),
        (["train-diffc", "nowhere", "--out", "x"], "There is no activation store at nowhere"),
        (["top-images", "nowhere", "nowhere"], "nowhere"),
        (["purity", "nowhere", "nowhere"], "nowhere"),
        (["classify", "nowhere", "digits"], "There is no classifier at nowhere"),
        (["zero-shot", "/no/such/folder"], "There is no file or folder /no/such/folder"),
        (["layers", "/no/such/model"], "There is no model folder /no/such/model"),
        (["extract", "/no/such/folder", "--out", "x"], "There is no file or folder /no/such/folder"),
        (["extract", "pets", "--root", "/no", "--out", "x"], "There is no /no/pets"),
    ],
)
def test_errors_are_sentences(arguments: list[str], words: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = fails(*arguments)
    assert shown.startswith("Error: ") and words in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["extract", "digits", "--out", "x", "--timesteps", "25,soon"],
            "--timesteps is '25,soon', which is no list",
        ),
        (["extract", "digits", "--out", "x", "--layers", ","], "--layers must be a list of at least one"),
        (["extract", "digits", "--out", "x", "--num-crops", "2"], "add --maps"),
        (["train-sae", "s", "--out", "x", "--lr", "0"], "--lr must be a number above 0, got 0.0"),
        (
            ["train-sae", "s", "--out", "x", "--k", "5", "--n-latents", "4"],
            "--k must not exceed --n-latents = 4",
        ),
        (["train-diffc", "photos", "--out", "x", "--cache", "none", "--layer", "up_ft1"], "train-diffc-online PHOTOS"),
        (["train-sae", "s", "--out", "x", "--set", "kk=3"], "expected name=value, name one of k, expansion_factor"),
        (["top-images", "a", "b", "--sheets", "c"], "contact sheets need --source"),
        (["extract", "digits"], "Missing option '--out'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], words: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in fails(*arguments, code=2)


def test_mistakes_in_a_file_are_all_shown(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("source: {spec: digits}\nlayrs: [up_ft1]\nseed: x\n")
    shown = fails("run", file)
    assert "line 2: layrs is not a setting: did you mean 'layers'" in shown and "line 3: seed is 'x'" in shown


def test_a_wrong_layer_lists_the_right_ones(tiny_sd: Path, pictures: Path, tmp_path: Path) -> None:
    shown = fails("extract", pictures, "--model", tiny_sd, "--layers", "up_ft7", "--out", tmp_path / "x")
    assert "up_ft7" in shown and "up_ft2" in shown


def test_damage_is_a_sentence(extracted: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(extracted / "pooled" / "bottleneck" / "t25", store)
    shard = next(store.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert shard.name in fails("train-sae", store, "--out", tmp_path / "sae")


def test_a_pickle_posing_as_a_checkpoint_is_not_executed(extracted: Path, tmp_path: Path) -> None:
    checkpoint, marker = tmp_path / "evil.pt", tmp_path / "executed"
    checkpoint.write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    shown = fails("top-images", checkpoint, extracted / "pooled" / "bottleneck" / "t25", "--out", tmp_path / "t")
    assert "evil.pt" in shown and not marker.exists()
    pickle.loads(checkpoint.read_bytes())
    assert marker.exists()


def test_a_bug_keeps_its_traceback_and_debug_shows_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import revelio_fast.config as config

    def broken(*arguments):
        raise KeyError("a bug")

    monkeypatch.setattr(config, "load_config", broken)
    assert isinstance(command("run", "x.yaml").exception, KeyError)
    monkeypatch.undo()
    monkeypatch.setenv("REVELIO_DEBUG", "1")
    assert isinstance(command("run", tmp_path / "x.yaml").exception, ValueError)


def test_an_interrupt_says_that_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    import revelio_fast.config as config

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load_config", interrupted)
    assert "the same command continues" in fails("run", "x.yaml", code=130)


def test_the_demos_settings_fit_its_promise(tmp_path: Path) -> None:
    from revelio_fast.demo import demo_config

    config = demo_config(tmp_path / "it's here")
    assert config.out_dir == str(tmp_path / "it's here") and config.model == "mini-sd"
    assert config.layers == ("bottleneck", "up_ft0", "up_ft1", "up_ft2") and config.timesteps == (25, 200)
    assert config.diffc.augmentation == "none" and config.source.test_split == "test"

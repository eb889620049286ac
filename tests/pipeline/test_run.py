"""The whole pipeline on forty pictures and a tiny network: files, figures, reruns, changes, kills, skipped images."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from revelio_fast.classifiers import DiffC, MapClassifier
from revelio_fast.concepts import TopActivations
from revelio_fast.config import parse_config
from revelio_fast.data import BrokenImageError, open_source
from revelio_fast.interop import load_sae
from revelio_fast.pipeline import run
from revelio_fast.pipeline.inputs import hold_out_positions, open_images
from revelio_fast.pipeline.main_table import main_table
from revelio_fast.report import RunSummary, comparisons


def test_a_run_and_its_rerun(settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parse_config(settings, overrides=["report.sheets=2"])
    first = run(config, progress=True)
    shown = capsys.readouterr().err
    assert "k-SAE: bottleneck, t = 25 (30 x 64)" in shown and "done before" not in shown
    features = first.summary.features
    assert [each.place for each in features] == [
        ("model", "bottleneck", 25),
        ("random weights", "bottleneck", 25),
        ("raw pixels", None, None),
        ("VAE latents", None, None),
    ]
    assert features[2].features == "raw pixels (8 x 8 px)"
    for each in features:
        assert each.probe is not None and each.probe.n_test == 10 and each.probe.chance == 0.5
        assert each.sae is not None and load_sae(each.sae).W_enc.shape == (64, each.d)
        assert each.tops is not None and each.tops.n_images == 30 and each.metrics["l0"] == 24
        assert each.purity is not None and 0.5 <= each.purity.majority_share <= 1
        assert [probe.kind for probe in each.other_probes] == ["nearest centroid", "5 nearest neighbours"]
    common = min(each.purity.n_latents_used for each in features)
    assert {each.purity_at_common.n_latents_used for each in features} == {common} == {first.summary.common_latents}
    assert len({each.purity.n_latents_used for each in features}) > 1, "else the common number was not put to the test"
    # Dark and light pictures: pixels and VAE latents tell them apart without exception.
    assert all(each.probe.accuracy == 1.0 for each in features[2:] if each.probe)
    classifiers = first.summary.classifiers
    assert [each.place for each in classifiers] == [each.place for each in features]
    assert all(each.accuracy == each.correct.count("1") / 10 and each.n_test == 10 for each in classifiers)
    # All were tested on the same ten images, so that they can be compared image by image.
    assert len({each.images for each in classifiers} | {each.probe.images for each in features}) == 1
    accuracies = [each for each in comparisons(first.summary) if each.figure != "majority share"]
    assert len(accuracies) == 6 and all("McNemar" in each.difference.test for each in accuracies)
    root = tmp_path / "run"
    text = first.report.read_text()
    assert "10 of its 40 images" in text and "random weights" in text and "raw pixels" in text
    assert {p.name for p in root.iterdir()} >= {"config.json", "versions.json", "stages.json", "report"}
    assert json.loads((root / "config.json").read_text())["layers"] == ["bottleneck"]
    assert len(list((root / "report" / "sheets").rglob("latent-*.png"))) == 2
    assert list((root / "report" / "tables").glob("*.csv")) and list((root / "report" / "figures").glob("*.png"))
    (classifier,) = [stage for stage in first.stages if stage.name == "Diff-C: bottleneck, t = 25"]
    assert DiffC.from_pretrained(classifier.folder / "model").class_names == ["dark", "light"]

    second = run(config, progress=True)
    assert all(stage.skipped for stage in second.stages) and len(second.stages) == len(first.stages)
    assert "done before" in capsys.readouterr().err
    assert [each.as_dict() for each in second.summary.features] == [each.as_dict() for each in features]
    assert [each.as_dict() for each in second.summary.classifiers] == [each.as_dict() for each in classifiers]
    assert RunSummary.load(root / "report" / "summary.json").as_dict() == second.summary.as_dict()
    assert second.summary.seconds == first.summary.seconds and second.summary.seconds_now == {}
    assert second.report.read_text().split("## Tables")[0] == text.split("## Tables")[0]

    table = main_table(first.summary)
    assert "bottleneck t=25" in table and "random weights bottleneck t=25" in table and "100.0 %" in table
    assert f"its {common} best-ranked latents" in table and "majority share" in table


@pytest.mark.parametrize("mode", ["num_crops: 2", "cache: none"])
def test_diffc_with_fresh_crops_and_the_baseline_head(settings: str, mode: str, tmp_path: Path) -> None:
    settings = settings.replace("diffc: {width: 8", "diffc: {" + mode + ", heads: [diffc, resnet], width: 8")
    settings = settings.replace("baselines: {", "baselines: {random_weights: false, raw_pixels: false, sae: false, ")
    first = run(parse_config(settings), progress=False)
    assert [(each.name, each.layer, each.head) for each in first.summary.classifiers] == [
        ("model", "bottleneck", "Diff-C"),
        ("model", "bottleneck", "SD features"),
        ("VAE latents", None, "Diff-C"),
    ]
    assert len({each.images for each in first.summary.classifiers}) == 1
    table = (tmp_path / "run" / "report" / "tables" / "diffc.csv").read_text()
    assert [line.split(",")[3] for line in table.splitlines()[1:]] == ["Diff-C", "SD features", "Diff-C"]
    folders = {stage.name: stage.folder for stage in first.stages}
    classifier = MapClassifier.from_pretrained(folders["SD features: bottleneck, t = 25"] / "model")
    assert classifier.features is not None and classifier.features["layer"] == "bottleneck"
    kept = sorted(path.parent.name for path in (tmp_path / "run" / "maps").rglob("variants/*/manifest.json"))
    assert kept == (["000", "001"] if mode == "num_crops: 2" else [])
    assert (tmp_path / "run" / "maps").is_dir() == (mode == "num_crops: 2")
    second = run(parse_config(settings), progress=False)
    assert all(stage.skipped for stage in second.stages)
    other = run(parse_config(settings, overrides=["diffc.min_scale=0.5"]), progress=False)
    again = {stage.folder.relative_to(tmp_path / "run").parts[0] for stage in other.stages if not stage.skipped}
    assert again == ({"maps", "diffc", "resnet"} if mode == "num_crops: 2" else {"diffc", "resnet"})


def test_changed_settings_redo_only_what_depends_on_them(settings: str) -> None:
    settings = settings.replace("baselines: {", "baselines: {random_weights: false, vae_latents: false, ")
    first = run(parse_config(settings), progress=False)
    longer = run(parse_config(settings, overrides=["sae.steps=31"]), progress=False)
    done_again = {stage.folder.parent.name for stage in longer.stages if not stage.skipped}
    assert done_again == {"ksae", "tops", "purity"}
    reseeded = run(parse_config(settings, overrides=["purity.permutations=21"]), progress=False)
    assert {stage.folder.parent.name for stage in reseeded.stages if not stage.skipped} == {"purity"}
    back = run(parse_config(settings), progress=False)
    assert all(stage.skipped for stage in back.stages)
    assert [s.key for s in back.stages] == [s.key for s in first.stages]


def test_prompts_of_a_run(settings: str, pictures: Path, tiny_clip: Path, tmp_path: Path) -> None:
    quick = [
        "baselines={random_weights: false, raw_pixels: false, vae_latents: false}",
        "diffc.epochs=1",
        "sae.steps=2",
    ]
    asked = parse_config(settings, overrides=[*quick, f"prompts={{from_clip: {tiny_clip}, template: 'a {{}}'}}"])
    result = run(asked, progress=False)
    said = r"Prompts of extract (\w+ \(model, \w+\)).*zero-shot accuracy .*% of (\d+) images"
    shown = re.findall(said, "\n".join(result.summary.notes))
    # Pooled features for the k-SAE and maps for Diff-C alike, of both halves; CLIP looked at each image once.
    assert shown == [
        ("features (model, train)", "30"),
        ("features (model, test)", "10"),
        ("maps (model, train)", "30"),
        ("maps (model, test)", "10"),
    ]
    (kept,) = (tmp_path / "run" / "features" / "clip").iterdir()
    assert len(kept.read_text().splitlines()) == 1 + 40
    assert len(list((tmp_path / "run").glob("*/*/prompts-*.csv"))) == 4
    assert f"from_clip: {tiny_clip}" in result.report.read_text()
    assert all(stage.skipped for stage in run(asked, progress=False).stages)

    oracle = parse_config(settings, overrides=[*quick, "prompts={template: 'a {}'}", "diffc.enabled=false"])
    result = run(oracle, progress=False)
    assert not any(stage.skipped for stage in result.stages)
    assert any("true class: an oracle" in note for note in result.summary.notes)

    told = tmp_path / "told.csv"
    told.write_text("name,prompt\n" + "".join(f"{name},text of {name}\n" for name in open_source(pictures).names))
    given = parse_config(settings, overrides=[*quick, f"prompts={{file: {told}}}", "diffc.enabled=false"])
    run(given, progress=False)
    assert all(stage.skipped for stage in run(given, progress=False).stages)
    told.write_text(told.read_text().replace("text of dark/03.png\n", "text three\n"))
    assert not any(stage.skipped for stage in run(given, progress=False).stages)


def test_another_picture_or_model_is_noticed(settings: str, pictures: Path, tiny_sd: Path, tmp_path: Path) -> None:
    copy, model = tmp_path / "pictures", tmp_path / "model"
    shutil.copytree(pictures, copy)
    shutil.copytree(tiny_sd, model)
    quick = ["diffc.enabled=false", "baselines={random_weights: false, raw_pixels: false, vae_latents: false}"]
    config = parse_config(settings, overrides=[*quick, f"source.spec={copy}", f"model={model}"])
    run(config, progress=False)
    assert all(stage.skipped for stage in run(config, progress=False).stages)
    shutil.copy(copy / "dark" / "00.png", copy / "dark" / "01.png")
    assert not any(stage.skipped for stage in run(config, progress=False).stages)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert not any(stage.skipped for stage in run(config, progress=False).stages)


def test_seeds_repeat_what_is_trained_and_nothing_else(settings: str) -> None:
    quick = ["baselines={vae_latents: false, pixel_size: 8}", "seeds=[3, 5]"]
    config = parse_config(settings, overrides=quick)
    result = run(config, progress=False)
    summary = result.summary
    assert summary.seeds == [3, 5] and [each.seed for each in summary.features] == [3, 3, 3, 5, 5, 5]
    first, second = summary.features[0], summary.features[3]
    assert first.place == second.place and first.metrics != second.metrics and first.probe == second.probe
    kinds = [stage.folder.parent.name for stage in result.stages]
    assert kinds.count("features") == 6 and kinds.count("ksae") == 6 and kinds.count("probe") == 3
    assert kinds.count("diffc") == 6 and len({each.correct for each in summary.classifiers}) >= 1
    text = result.report.read_text()
    assert "Seeds 3, 5: k-SAEs, purity and Diff-C were repeated" in text and "deviation over seeds" in text
    assert "±" in main_table(summary)
    # A single seed of them finds its stages done.
    again = run(parse_config(settings, overrides=[*quick[:1], "seeds=[5]"]), progress=False)
    # The common number of latents, over which purities are compared, may be another one without the other seed.
    assert all(stage.skipped for stage in again.stages if stage.folder.parent.name != "purity")
    anew = run(parse_config(settings, overrides=[*quick, "seed_features=true", "diffc.enabled=false"]), progress=False)
    kinds = [stage.folder.parent.name for stage in anew.stages]
    # Train and test of the model and of random weights for each seed; raw pixels have none.
    assert kinds.count("features") == 2 * (2 + 2) + 2 and kinds.count("probe") == 5
    with pytest.raises(ValueError, match="name each once"):
        parse_config(settings, overrides=["seeds=[1, 1]"])


def test_raw_pixels_have_the_models_own_resolution_or_a_stated_one(settings: str) -> None:
    quick = ["diffc.enabled=false", "baselines={random_weights: false, vae_latents: false, sae: false}"]
    result = run(parse_config(settings, overrides=quick), progress=False)
    (pixels,) = result.summary.baselines
    assert pixels.d == 3 * 32 * 32 and pixels.detail == "32 x 32 px"
    for name in ("linear_probe", "comparisons"):
        assert "raw pixels (32 x 32 px)" in (result.report.parent / "tables" / f"{name}.csv").read_text()
    quick[1] = quick[1].replace("sae: false", "sae: false, max_features: 500")
    (pixels,) = run(parse_config(settings, overrides=quick), progress=False).summary.baselines
    assert pixels.detail == "12 x 12 px" and pixels.d == 3 * 12 * 12


def test_going_back_to_earlier_settings_leaves_no_stale_sheets(settings: str, tmp_path: Path) -> None:
    quick = ["diffc.enabled=false", "baselines={random_weights: false, raw_pixels: false, vae_latents: false}"]
    config = parse_config(settings, overrides=[*quick, "report.sheets=2"])
    sheets = tmp_path / "run" / "report" / "sheets"
    run(config, progress=False)
    first = {path.name: path.read_bytes() for path in sheets.rglob("*.png")}
    run(parse_config(settings, overrides=[*quick, "report.sheets=5", "sae.k=12"]), progress=False)
    assert {path.name: path.read_bytes() for path in sheets.rglob("*.png")} != first
    run(config, progress=False)
    assert {path.name: path.read_bytes() for path in sheets.rglob("*.png")} == first


def test_a_killed_run_goes_on(settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(settings, overrides=["baselines={random_weights: false, vae_latents: false, pixel_size: 8}"])

    import revelio_fast.pipeline.measure as module

    def die(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "top_images", die)
    with pytest.raises(KeyboardInterrupt):
        run(config, progress=False)
    monkeypatch.undo()
    result = run(config, progress=False)
    kinds = [(stage.folder.parent.name, stage.skipped) for stage in result.stages]
    assert kinds[:4] == [("features", True), ("features", True), ("ksae", True), ("tops", False)]
    assert result.report.is_file()


def test_without_labels_there_are_top_images_only(settings: str, pictures: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for folder in pictures.iterdir():
        for file in folder.iterdir():
            shutil.copy(file, flat / f"{folder.name}{file.name}")
    result = run(parse_config(settings, overrides=[f"source.spec={flat}"]), progress=False)
    assert all(each.purity is None and each.probe is None and each.tops for each in result.summary.features)
    assert not result.summary.classifiers and "no labels" in result.report.read_text()


def test_broken_pictures_stop_or_are_listed(settings: str, pictures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    (copy / "dark" / "03.png").write_text("not a picture")
    (copy / "dark" / "17.png").write_text("not a picture")
    config = parse_config(settings, overrides=[f"source.spec={copy}"])
    with pytest.raises(BrokenImageError, match=r"03\.png|17\.png"):
        run(config, progress=False)
    skipping = parse_config(settings, overrides=[f"source.spec={copy}", "on_error=skip"])
    with pytest.warns(UserWarning, match="broken"):
        result = run(skipping, progress=False)
    text = result.report.read_text()
    assert "2 images could not be read and were skipped" in text and "03.png" in text
    (pixels,) = [each for each in result.summary.features if each.name == "raw pixels"]
    assert pixels.n_images + pixels.probe.n_test == 38


def test_the_stores_hold_what_the_stages_say(settings: str, pictures: Path) -> None:
    result = run(parse_config(settings, overrides=["diffc.enabled=false"]), progress=False)
    by_name = {stage.folder.parent.name + "/" + stage.folder.name.rsplit("-", 1)[0]: stage for stage in result.stages}
    tops = by_name["tops/model-bottleneck-t25"].folder / "top_activations.safetensors"
    shown = TopActivations.load(tops).image_ids
    assert set(shown[shown >= 0].tolist()) <= set(open_source(pictures).image_ids)
    assert by_name["features/model-train"].output == {"skipped": [], "rows": 30}
    assert by_name["features/model-test"].output["rows"] == 10


def test_hold_out_takes_a_share_of_each_class() -> None:
    labels = [0] * 10 + [1] * 4 + [2] * 2 + [3] + [-1] * 3
    keep, held = hold_out_positions(labels, 0.25, seed=0)
    assert sorted(keep + held) == list(range(20))
    counts = [sum(labels[p] == c for p in held) for c in (0, 1, 2, 3, -1)]
    assert counts == [2, 1, 1, 0, 0]
    assert hold_out_positions(labels, 0.25, seed=0) == (keep, held)
    assert hold_out_positions(labels, 0.25, seed=1) != (keep, held)


def test_the_digits_splits_are_kept_apart() -> None:
    images = open_images(parse_config("source: {spec: digits, split: train, test_split: test, limit: 40}\n"))
    assert images.test is not None and len(images.train) == 40 and len(images.test) == 500
    assert not set(images.train.image_ids) & set(images.test.image_ids)
    assert images.class_names == [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    "override, words",
    [
        ("layers=[up_ft9]", "up_ft0"),
        ("timesteps=[5000]", "timestep 5000 does not exist"),
        ("model=/no/such/model", "/no/such/model"),
        ("source.spec=/no/such/folder", "/no/such/folder"),
        ("source.split=nothing", "nothing"),
    ],
)
def test_mistakes_that_only_the_model_or_source_can_see(settings: str, override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(parse_config(settings, overrides=[override]), progress=False)

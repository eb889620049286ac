"""Saved classifiers on new images: the training's own features, files of predictions, labels by name, clear errors."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from revelio_fast.assets import mini_sd_path
from revelio_fast.classifiers import (
    DiffC,
    DiffCConfig,
    ImageClassifier,
    feature_record,
    load_classifier,
    train_diffc_online,
)
from revelio_fast.classifiers import image_classifier as module
from revelio_fast.data import open_source
from revelio_fast.features import FeatureExtractor, extract_maps
from revelio_fast.models import ModelError


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of dark and light pictures."""
    out = tmp_path_factory.mktemp("trained")
    source = open_source(pictures)
    train_diffc_online(
        FeatureExtractor.from_pretrained(mini_sd_path(), ["up_ft2"], [25], seed=3), source.subset(range(0, 40, 2)),
        source.subset(range(1, 40, 4)), DiffCConfig(epochs=6, batch_size=4, width=16, lr=3e-3, lr_min=1e-3),
        out_dir=out, batch_size=5, progress=False,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def classifier(trained: Path) -> ImageClassifier:
    return load_classifier(trained)


def test_it_remembers_its_features(classifier: ImageClassifier, trained: Path) -> None:
    record = json.loads((trained / "model" / "config.json").read_text())["features"]
    assert record["model"] == "mini-sd" and (record["layer"], record["timestep"]) == ("up_ft2", 25)
    assert record["seed"] == 3 and record["image_size"] == 32 and "class_names" not in record
    assert classifier.extractor.keys == [("up_ft2", 25)] and classifier.class_names == ["dark", "light"]
    assert classifier.extractor.metadata()["seed"] == 3
    assert feature_record({"model": str(mini_sd_path()), "source": "x"}) == {"model": "mini-sd"}


def test_predictions_are_those_of_extraction_and_classifier(
    classifier: ImageClassifier, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.csv"
    found = classifier.classify(pictures, out, top=2, batch_size=8, progress=False)
    store = extract_maps(
        classifier.extractor, pictures, tmp_path / "maps", batch_size=8, store_dtype=torch.float32, progress=False
    )["up_ft2", 25]
    expected = classifier.model.predict(store.maps, batch_size=8)
    assert torch.equal(found.predicted, expected.labels) and found.image_ids.tolist() == open_source(pictures).image_ids
    # Dark against light pictures; chance is 20 +- 3 of 40.
    assert found.accuracy is not None and found.accuracy > 0.8 and found.timed == 40
    right = (found.predicted == found.labels).double().mean()
    assert found.accuracy == pytest.approx(float(right)) and found.labels.tolist() == [0] * 20 + [1] * 20
    wrong = found.confusion[[0, 1], [1, 0]]
    assert found.confusion.sum() == 40 and int(wrong[1]) == 20 - int(found.predicted[20:].sum())
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image_id", "content", "path", "label", "predicted", "label_number", "predicted_number",
                             "class_1", "probability_1", "class_2", "probability_2"]  # fmt: skip
    written = torch.tensor([float(row["probability_1"]) for row in rows])
    torch.testing.assert_close(written, expected.probabilities.max(1).values, atol=1e-6, rtol=1e-5)
    assert [row["class_1"] for row in rows] == [["dark", "light"][c] for c in expected.labels.tolist()]
    assert rows[25]["path"].endswith("light/05.png") and (rows[25]["label"], rows[25]["label_number"]) == ("light", "1")
    assert [row["predicted"] for row in rows] == [row["class_1"] for row in rows]
    about = json.loads(out.with_suffix(".json").read_text())
    assert about["complete"] and about["metrics"]["accuracy"] == found.accuracy
    dark = about["metrics"]["per_class_accuracy"][0]
    assert dark == {"class": "dark", "images": 20, "accuracy": int(found.confusion[0, 0]) / 20}
    assert about["metrics"]["confusion"] == found.confusion.tolist() and about["metrics"]["seconds_per_image"] > 0


def test_some_images_at_once(classifier: ImageClassifier, pictures: Path) -> None:
    items = [open_source(pictures)[i] for i in (3, 30)]
    found = classifier.predict([item.load() for item in items])
    expected = classifier.classify(pictures, progress=False)
    assert found.labels.tolist() == expected.predicted[[3, 30]].tolist() and found.probabilities.shape == (2, 2)


def test_a_cut_off_file_is_continued(
    classifier: ImageClassifier, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    expected = classifier.classify(pictures, whole, progress=False)
    append, calls = module.PredictionLog.append, []

    def append_or_die(self, *arguments) -> None:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        append(self, *arguments)

    monkeypatch.setattr(module.PredictionLog, "append", append_or_die)
    with pytest.raises(KeyboardInterrupt):
        classifier.classify(pictures, cut, progress=False)
    monkeypatch.undo()
    assert not json.loads(cut.with_suffix(".json").read_text())["complete"]
    # A kill in the middle of a line.
    cut.write_bytes(cut.read_bytes()[:-9])
    found = classifier.classify(pictures, cut, progress=False)
    assert found.timed == 40 - 18 and torch.equal(found.predicted, expected.predicted)
    assert cut.read_text() == whole.read_text()
    assert classifier.classify(pictures, cut, progress=False).timed == 0


def test_a_changed_folder_changes_only_what_it_must(
    classifier: ImageClassifier, pictures: Path, tmp_path: Path
) -> None:
    """Images added, removed, replaced and moved to another class between two calls with one file."""
    folder, out = tmp_path / "pictures", tmp_path / "p.csv"
    shutil.copytree(pictures, folder)
    classifier.classify(folder, out, progress=False)
    shutil.copy(folder / "light" / "03.png", folder / "dark" / "000.png")
    (folder / "dark" / "07.png").unlink()
    shutil.copy(folder / "light" / "04.png", folder / "dark" / "08.png")
    (folder / "dark" / "09.png").rename(folder / "light" / "99.png")
    found = classifier.classify(folder, out, progress=False)
    assert found.timed == 3
    expected = classifier.classify(folder, progress=False)
    order, other = found.image_ids.argsort(), expected.image_ids.argsort()
    assert torch.equal(found.image_ids[order], expected.image_ids[other])
    assert torch.equal(found.predicted[order], expected.predicted[other])
    assert torch.equal(found.labels[order], expected.labels[other])
    with out.open() as file:
        rows = {int(row["image_id"]): row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(open_source(folder).image_ids)
    table = tmp_path / "table.csv"
    table.write_text("file,label\n" + "".join(f"pictures/{name},light\n" for name in open_source(folder).names))
    classifier.classify(table, tmp_path / "q.csv", progress=False)
    table.write_text(table.read_text().replace("dark/03.png,light", "dark/03.png,dark"))
    relabelled = classifier.classify(table, tmp_path / "q.csv", progress=False)
    assert relabelled.timed == 0 and relabelled.labels.tolist().count(0) == 1


def test_files_of_other_settings_are_refused(classifier: ImageClassifier, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    classifier.classify(open_source(pictures, limit=4), out, progress=False)
    with pytest.raises(ValueError, match="made with other settings"):
        classifier.classify(open_source(pictures, limit=4), out, batch_size=3, progress=False)
    out.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="made with other settings"):
        classifier.classify(open_source(pictures, limit=4), out, progress=False)
    with pytest.raises(ValueError, match=r"should end in \.csv"):
        classifier.classify(pictures, tmp_path / "p.json", progress=False)
    with pytest.raises(ValueError, match="top is 0"):
        classifier.classify(pictures, top=0, progress=False)


def test_classes_are_matched_by_name(classifier: ImageClassifier, pictures: Path, tmp_path: Path) -> None:
    """A folder of only light pictures has label 0 where the classifier has 1."""
    for name in ("light", "odd"):
        shutil.copytree(pictures / "light", tmp_path / "new" / name)
    with pytest.warns(UserWarning, match="Images of odd were not counted"):
        found = classifier.classify(tmp_path / "new", progress=False)
    assert found.labels.tolist() == [1] * 20 + [-1] * 20
    assert found.accuracy == float((found.predicted[:20] == 1).double().mean()) > 0.5
    flat = classifier.classify(pictures / "dark", progress=False)
    assert flat.accuracy is None and "accuracy" not in flat.metrics() and len(flat.predicted) == 20
    (tmp_path / "new" / "light").rename(tmp_path / "new" / "strange")
    shutil.copytree(pictures / "dark", tmp_path / "new" / "third")
    with pytest.warns(UserWarning, match="None of the 3 classes"):
        assert classifier.classify(tmp_path / "new", progress=False).accuracy is None


def test_broken_images(classifier: ImageClassifier, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "dark", tmp_path / "x")
    (tmp_path / "x" / "07.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"07\.png"):
        classifier.classify(tmp_path / "x", progress=False)
    with pytest.warns(UserWarning, match="1 broken images were skipped"):
        found = classifier.classify(tmp_path / "x", on_error="skip", progress=False)
    ids = open_source(pictures / "dark").image_ids
    assert found.image_ids.tolist() == [*ids[:7], *ids[8:]]


def test_missing_parts_are_named(trained: Path, tiny_sd: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no classifier at"):
        load_classifier(tmp_path / "nowhere")
    DiffC(4, 2, width=8).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="does not say which features it reads"):
        load_classifier(tmp_path / "bare")
    moved = tmp_path / "moved"
    shutil.copytree(trained / "model", moved)
    about = json.loads((moved / "config.json").read_text())
    about["features"]["model"] = "/no/such/model"
    (moved / "config.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match=r"features of /no/such/model, and that model cannot be used.*model="):
        load_classifier(moved)
    assert load_classifier(moved, model=mini_sd_path()).model.in_channels == 96
    with pytest.raises(ValueError, match=r"up_ft2 of .* has 32 channels, the classifier .* reads 96"):
        load_classifier(moved, model=tiny_sd)
    del about["features"]["layer"]
    (moved / "config.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match="does not say which 'layer'"):
        load_classifier(moved, model=tiny_sd)


def test_prompts_are_those_of_the_training(trained: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "told"
    shutil.copytree(trained / "model", folder)
    about = json.loads((folder / "config.json").read_text())

    def told(prompt: dict) -> ImageClassifier:
        (folder / "config.json").write_text(json.dumps({**about, "features": {**about["features"], "prompt": prompt}}))
        return load_classifier(folder)

    table = tmp_path / "t.csv"
    rows = [f"{pictures}/dark/{n:02}.png,dark,{'words ' * n}" for n in range(3)]
    table.write_text("\n".join(["file,label,caption", *rows]))
    source = open_source(table)
    by_column = told({"mode": "column", "column": "caption"})
    found = by_column.classify(source, tmp_path / "p.csv", top=1, batch_size=3, progress=False)
    assert found.labels.tolist() == [0, 0, 0]
    images = [item.load() for item in source]
    expected = by_column.predict(images, prompts=["", "words ", "words words "]).probabilities.max(1).values
    with (tmp_path / "p.csv").open() as file:
        written = torch.tensor([float(row["probability_1"]) for row in csv.DictReader(file)])
    torch.testing.assert_close(written, expected, atol=1e-6, rtol=1e-5)
    # The classes of a prompt are the classifier's, in its order, whatever the new folders are called.
    of_class = told({"mode": "true class", "template": "a {} picture", "oracle": True})
    turned = source.labelled(dict(zip(source.image_ids, [1, 0, 1], strict=True)), ["dark", "light"], None)
    assert list(of_class.extractor.prompts.texts(turned).values()) == [
        "a light picture", "a dark picture", "a light picture"
    ]  # fmt: skip
    clip = {"mode": "from_clip", "model": "some/clip", "revision": None, "templates": None, "prompt": "a {}"}
    assert told(clip).extractor.prompts.about() == clip
    with pytest.raises(ValueError, match=r"prompts of the kind 'file'.*--prompt-file"):
        told({"mode": "file", "file": "prompts.csv"})
    assert load_classifier(folder, prompt="a cat").extractor.metadata()["prompt"] == "a cat"

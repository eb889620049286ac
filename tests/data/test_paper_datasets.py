"""The paper's data sets by name, each from a local folder laid out as the Hub lays it out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revelio_fast.data import PAPER_DATASETS, SourceError, open_source
from tests.tiny import picture

# The columns of the Hub's files beside image and label, and where the true classes lie among several label columns.
EXTRA = {
    "pets": {"label_cat_dog": ["cat", "dog"]},
    "aircraft": {"family": ["A", "B"], "manufacturer": ["C", "D"], "label": ["E", "F"]},
}
LABELLED = [name for name, each in PAPER_DATASETS.items() if each.n_classes]
CLASS_OF_ROW = [3, 0, 7, 7]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REVELIO_DATA", raising=False)
    return tmp_path / "data"


def write_parquet(root: Path, name: str, split: str, n_classes: int | None = None) -> None:
    """Four rows in the layout of the Hub's copy, more label columns first, so that guessing would go wrong."""
    import datasets

    known = PAPER_DATASETS[name]
    classes = [f"class_{number:04d}" for number in range(n_classes or known.n_classes)]
    features: dict[str, Any] = {each: datasets.ClassLabel(names=names) for each, names in EXTRA.get(name, {}).items()}
    values: dict[str, Any] = {each: [1, 1, 0, 1] for each in EXTRA.get(name, {})}
    features |= {known.image_column: datasets.Image(), known.label_column: datasets.ClassLabel(names=classes)}
    encoded = []
    for number in range(4):
        buffer = io.BytesIO()
        picture(number).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": f"{number}.png"})
    values |= {known.image_column: encoded, known.label_column: CLASS_OF_ROW}
    folder = root / name / "data"
    folder.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    table.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


@pytest.mark.parametrize("name", LABELLED)
def test_each_opens_from_a_local_copy(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in PAPER_DATASETS[name].splits:
        write_parquet(root, name, split)
    source = open_source(name, split="test", root=root)
    assert list(source.labels.values()) == CLASS_OF_ROW
    assert source.class_names is not None and len(source.class_names) == PAPER_DATASETS[name].n_classes
    assert source.class_names[7] == "class_0007"
    assert np.array_equal(np.asarray(source[2].load()), np.asarray(picture(2)))
    assert source.dataset == source.limited(2).dataset == name and "(test)" in source.name
    monkeypatch.setenv("REVELIO_DATA", str(root))
    assert "(train)" in open_source(f"paper:{name}").name


def test_unrel_is_a_folder_of_images_without_classes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"unrel .*is not on the Hugging Face Hub.*REVELIO_DATA"):
        open_source("unrel")
    (root / "unrel" / "images").mkdir(parents=True)
    for number in range(3):
        picture(number).save(root / "unrel" / "images" / f"{number}.jpg")
    monkeypatch.setenv("REVELIO_DATA", str(root))
    source = open_source("unrel")
    assert list(source.labels.values()) == [-1] * 3 and source.class_names is None


def test_the_hub_is_asked_for_what_is_not_here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str) -> Any:
        asked.append(name)
        return datasets.DatasetDict(
            {each: datasets.Dataset.from_parquet(str(file)) for each, file in (("train", made), ("test", made))}
        )

    write_parquet(root, "aircraft", "train")
    made = root / "aircraft" / "data" / "train-00000-of-00001.parquet"
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("aircraft", split="test")
    assert asked == ["dpdl-benchmark/fgvc_aircraft"]
    assert list(source.labels.values()) == CLASS_OF_ROW
    assert list(open_source("aircraft", label_column="family").labels.values()) == [1, 1, 0, 1]
    monkeypatch.setenv("REVELIO_DATA", str(root))
    assert len(open_source("aircraft")) == 4 and len(asked) == 2


def test_what_cannot_be_opened_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    with pytest.raises(SourceError, match=r"no data set 'pet' in the table: it has pets, caltech101"):
        open_source("paper:pet")
    with pytest.raises(SourceError, match=r"root must be the folder that holds 'pets'"):
        open_source("pets", root=root)
    write_parquet(root, "pets", "train", n_classes=36)
    with pytest.raises(SourceError, match="names 36 classes, but pets has 37"):
        open_source("pets", root=root)
    with pytest.raises(SourceError, match="splits 'train': there is no 'test'"):
        open_source("pets", split="test", root=root)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(SourceError, match=r"no network.*REVELIO_DATA"):
        open_source("pets")


def test_a_folder_of_that_name_comes_first(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folder.rename(class_folder.parent / "pets")
    monkeypatch.chdir(class_folder.parent)
    assert open_source("pets").class_names == ["cat", "dog"]


def test_sentences_have_one_place_for_the_class() -> None:
    for name, each in PAPER_DATASETS.items():
        assert bool(each.templates) == bool(each.n_classes), name
        assert all(template.count("{}") == 1 for template in each.templates)
        assert len(set(each.templates)) == len(each.templates)


def test_real_photos_in_class_folders_serve_as_a_local_copy(
    shared_data: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folders come with a labels.csv, whose label column is found though the Hub calls it otherwise."""
    for name, folder in (("flowers102", "flowers102_train"), ("pets", "pets37_sample")):
        (tmp_path / name).symlink_to(shared_data / folder)
        source = open_source(name, root=tmp_path)
        assert len(source.class_names or ()) == PAPER_DATASETS[name].n_classes
    (tmp_path / "cifar10").symlink_to(shared_data / "cifar10_12k")
    source = open_source("cifar10", split="test", limit=20, root=tmp_path)
    assert source.class_names is not None and source.class_names[0] == "airplane"

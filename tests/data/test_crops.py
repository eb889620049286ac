"""Random crops: their sizes, what they are drawn from, and their maps beside the centre crop's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from revelio_fast.data import RandomCrops, image_to_tensor, open_source
from revelio_fast.features import FeatureExtractor, MapStore, extract_maps
from revelio_fast.store import StoreError, StoreWriter
from tests.tiny import digests

KEY = ("bottleneck", 25)


def content(number: int) -> bytes:
    """A digest that stands for an image's bytes."""
    return number.to_bytes(16, "big")


def test_crops_keep_area_shape_and_place() -> None:
    crops = RandomCrops(32)
    mirrored, areas = 0, []
    for number in range(400):
        (left, top, right, bottom), turned = crops.draw(content(number), 1, 200, 160)
        width, height = right - left, bottom - top
        assert left >= 0 and right <= 200 and top >= 0 and bottom <= 160
        # Sides are rounded to whole pixels: half a pixel of either side moves area and ratio by less than 1 %.
        areas.append(width * height / (200 * 160))
        assert 0.79 < areas[-1] <= 1.0 and 0.99 * 3 / 4 < width / height < 1.01 * 4 / 3
        mirrored += turned
    assert min(areas) < 0.83 and max(areas) > 0.95
    # 400 tosses have a standard deviation of 10.
    assert 150 < mirrored < 250
    assert not any(RandomCrops(32, hflip=False).draw(content(i), 1, 200, 160)[1] for i in range(50))


def test_a_crop_depends_on_seed_image_and_draw_only() -> None:
    crops = RandomCrops(32, seed=3)
    assert crops.draw(content(7), 2, 200, 160) == RandomCrops(16, seed=3).draw(content(7), 2, 200, 160)
    different = {crops.draw(content(number), draw, 200, 160) for number, draw in ((7, 2), (8, 2), (7, 3))}
    assert len(different | {RandomCrops(32, seed=4).draw(content(7), 2, 200, 160)}) == 4


def test_a_very_long_image_gets_its_middle() -> None:
    box, _ = RandomCrops(32, hflip=False).draw(content(0), 0, 1000, 30)
    assert box == (480, 0, 520, 30)


def test_the_pixels_are_the_boxs() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 120, 4), dtype=np.uint8), "RGBA")
    crops = RandomCrops(24)
    turned = set()
    for number in range(8):
        box, mirrored = crops.draw(content(number), 5, 120, 90)
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        expected = np.asarray(Image.alpha_composite(white, image).convert("RGB").crop(box).resize((24, 24), 2))
        found = np.asarray(crops.crop(image, content(number), 5))
        assert np.array_equal(found, expected[:, ::-1] if mirrored else expected)
        turned.add(mirrored)
    assert turned == {True, False}


@pytest.mark.parametrize("settings, words", [({"min_scale": 0.0}, "min_scale is 0.0"), ({"size": 0}, "size is 0")])
def test_bad_settings_are_named(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RandomCrops(**{"size": 32, **settings})


def test_a_cropped_source_keeps_ids_labels_and_orientation(class_folder: Path) -> None:
    source = open_source(class_folder)
    cropped = RandomCrops(32).source(source, 1)
    assert cropped.labels == source.labels and cropped.class_names == source.class_names
    assert cropped[3].load().size == (32, 32) and cropped.subset([3, 4])[0].image_id == source.image_ids[3]
    assert cropped[3].content == source[3].content
    exif = Image.Exif()
    exif[0x0112] = 6
    path = class_folder / "dog" / "99.png"
    Image.linear_gradient("L").resize((60, 40)).save(path, exif=exif)
    item = open_source(class_folder)[11]
    crops = RandomCrops(32, hflip=False)
    upright = np.asarray(crops.crop(item.load(), item.content, 0))
    assert np.array_equal(np.asarray(crops.source(open_source(class_folder), 0)[11].load()), upright)
    # An image that PIL has opened is turned, too.
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(crops.crop(opened, item.content, 0)), upright)


@pytest.fixture(scope="module")
def extractor(tiny_sd: Path) -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck"], [25])


def test_variants_are_maps_of_crops_with_noise_of_their_own(
    extractor: FeatureExtractor, class_folder: Path, tmp_path: Path
) -> None:
    crops = RandomCrops(32, seed=1)
    options = {"batch_size": 4, "store_dtype": torch.float32, "progress": False}
    store = extract_maps(extractor, class_folder, tmp_path, num_crops=2, crops=crops, **options)[KEY]
    plain = extract_maps(extractor, class_folder, tmp_path / "plain", **options)[KEY]
    assert torch.equal(store.maps, plain.maps) and not plain.variants()
    first, second = store.variants()
    assert torch.equal(first.image_ids, store.image_ids) and torch.equal(first.labels, store.labels)
    assert first.metadata["crop"] == {**crops.about(), "draw": 1} and second.metadata["crop"]["draw"] == 2
    assert (second.path / second.metadata["skipped"]).resolve() == (tmp_path / "skipped.csv").resolve()
    assert not torch.equal(first.maps, second.maps) and not torch.equal(first.maps, store.maps)
    # Independently: the crop as an image, draw 2 of the noise.
    source = open_source(class_folder)
    images = [crops.crop(item.load(), item.content, 2) for item in source][8:]
    batch = torch.zeros(4, 3, 32, 32)
    batch[:3] = torch.stack([image_to_tensor(image, 32) for image in images])
    given = batch, digests(images, 32), [0, 1, 2], [""] * 3, (), False
    expected = extractor._features(*given, 2)[KEY]
    assert torch.equal(second.maps[8:], expected)
    assert not torch.equal(expected, extractor._features(*given, 1)[KEY])


def test_variants_continue_after_an_interrupt(
    extractor: FeatureExtractor, class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"batch_size": 4, "num_crops": 2, "progress": False}
    whole = extract_maps(extractor, class_folder, tmp_path / "whole", **options)[KEY]
    append, calls = StoreWriter.append, []

    def append_or_die(self, *arguments) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        append(self, *arguments)

    monkeypatch.setattr(StoreWriter, "append", append_or_die)
    with pytest.raises(KeyboardInterrupt):
        extract_maps(extractor, class_folder, tmp_path / "cut", **options)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="unfinished"):
        MapStore.open(tmp_path / "cut" / "bottleneck" / "t25").variants()
    again = extract_maps(extractor, class_folder, tmp_path / "cut", **options)[KEY]
    for a, b in zip([whole, *whole.variants()], [again, *again.variants()], strict=True):
        assert torch.equal(a.maps, b.maps)


def test_variants_of_other_images_are_refused(extractor: FeatureExtractor, class_folder: Path, tmp_path: Path) -> None:
    options = {"batch_size": 4, "progress": False}
    extract_maps(extractor, open_source(class_folder, limit=8), tmp_path, num_crops=1, **options)
    store = extract_maps(extractor, class_folder, tmp_path, **options)[KEY]
    with pytest.raises(StoreError, match="holds other images"):
        store.variants()

"""Map stores: contents, memory mapping, dtypes, and every kind of damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from revelio_fast.data import open_source
from revelio_fast.features import FeatureExtractor, MapStore, MapStoreError, extract_maps
from revelio_fast.features.map_writer import MapWriter

KEY = ("up_ft1", 25)


@pytest.fixture(scope="module")
def extractor(tiny_sd: Path) -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck", "up_ft1"], [25])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_are_those_of_the_stream(
    extractor: FeatureExtractor, class_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    stores = extract_maps(extractor, class_folder, tmp_path, batch_size=4, store_dtype=dtype, progress=False)
    batches = list(extractor.stream(class_folder, batch_size=4, pool=False, progress=False))
    for key, store in stores.items():
        expected = torch.cat([batch.features[key] for batch in batches]).to(dtype)
        assert store.maps.dtype == dtype
        assert torch.equal(store.maps, expected)
        assert store.image_ids.tolist() == open_source(class_folder).image_ids
        assert store.labels.tolist() == [0] * 5 + [1] * 6
        assert (store.about["layer"], store.about["timestep"]) == key
        assert tuple(store.maps.shape[1:]) == extractor.layer_shapes()[key[0]]
    assert len(MapStore.open(tmp_path / "up_ft1" / "t25")) == 11


def test_writing_to_the_maps_does_not_change_the_file(
    extractor: FeatureExtractor, class_folder: Path, tmp_path: Path
) -> None:
    store = extract_maps(extractor, class_folder, tmp_path, progress=False)[KEY]
    before = store.maps.clone()
    store.maps.zero_()
    assert torch.equal(MapStore.open(store.path).maps, before)


def write(folder: Path, count: int = 3, **about: object) -> MapWriter:
    writer = MapWriter(folder, (2, 3, 3), torch.float32, about)
    writer.append(torch.randn(count, 2, 3, 3), torch.arange(count), torch.zeros(count, dtype=torch.int64))
    return writer


def test_an_unfinished_store_says_so_and_continues(tmp_path: Path) -> None:
    writer = write(tmp_path)
    writer.sync()
    with pytest.raises(MapStoreError, match="unfinished"):
        MapStore.open(tmp_path)
    with pytest.raises(RuntimeError, match="boom"), writer:
        raise RuntimeError("boom")
    again = MapWriter(tmp_path, (2, 3, 3), torch.float32, {})
    assert again.done_ids == {0, 1, 2}
    again.close()
    assert len(MapStore.open(tmp_path)) == 3


def test_what_was_not_synced_is_cut_off(tmp_path: Path) -> None:
    writer = write(tmp_path)
    writer.sync()
    writer._maps.write(b"12345")
    writer._maps.flush()
    del writer
    with MapWriter(tmp_path, (2, 3, 3), torch.float32, {}) as again:
        again.append(torch.ones(1, 2, 3, 3), torch.tensor([9]), torch.tensor([1]))
    store = MapStore.open(tmp_path)
    assert store.image_ids.tolist() == [0, 1, 2, 9]
    assert torch.equal(store.maps[3], torch.ones(2, 3, 3))


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write(tmp_path, prompt="").close()
    with pytest.raises(MapStoreError, match=r"dtype was 'float32', now 'bfloat16'"):
        MapWriter(tmp_path, (2, 3, 3), torch.bfloat16, {"prompt": ""})
    with pytest.raises(MapStoreError, match=r"prompt was '', now 'a cat'"):
        MapWriter(tmp_path, (2, 3, 3), torch.float32, {"prompt": "a cat"})
    with pytest.raises(MapStoreError, match=r"map shape was \[2, 3, 3\], now \[2, 4, 4\]"):
        MapWriter(tmp_path, (2, 4, 4), torch.float32, {"prompt": ""})
    with pytest.raises(MapStoreError, match="cannot be stored as"):
        MapWriter(tmp_path / "new", (2, 4, 4), torch.int32, {})
    assert len(MapStore.open(tmp_path)) == 3


def test_nan_is_refused(tmp_path: Path) -> None:
    writer = write(tmp_path)
    with pytest.raises(MapStoreError, match="image 8 holds NaN or infinity"):
        writer.append(torch.full((1, 2, 3, 3), torch.nan), torch.tensor([8]), torch.tensor([0]))


@pytest.mark.parametrize("damage", ["truncated", "missing", "no json", "other kind", "newer", "nothing"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "maps"
    write(folder).close()
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    message = {
        "truncated": r"maps\.raw should have 216 bytes but has 100",
        "missing": r"rows\.raw should have 48 bytes but is missing",
        "no json": "cannot be read as JSON",
        "other kind": "does not describe a map store",
        "newer": "schema version 9",
        "nothing": "There is no map store",
    }[damage]
    if damage == "truncated":
        (folder / "maps.raw").write_bytes((folder / "maps.raw").read_bytes()[:100])
    elif damage == "missing":
        (folder / "rows.raw").unlink()
    elif damage == "nothing":
        manifest.unlink()
    else:
        manifest.write_text(
            {
                "no json": "{",
                "other kind": json.dumps(content | {"kind": "x"}),
                "newer": json.dumps(content | {"schema_version": 9}),
            }[damage]
        )
    with pytest.raises(MapStoreError, match=message):
        MapStore.open(folder)
    if damage in ("truncated", "no json", "other kind", "newer"):
        with pytest.raises(MapStoreError):
            MapWriter(folder, (2, 3, 3), torch.float32, {})


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path)
    with pytest.raises(MapStoreError, match="Another process is writing"):
        MapWriter(tmp_path, (2, 3, 3), torch.float32, {})
    first.close()
    MapWriter(tmp_path, (2, 3, 3), torch.float32, {}).close()

"""Map stores: contents, dtypes, shards, and what else a folder may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from revelio_fast.data import ImageItem, ImageSource, open_source
from revelio_fast.features import FeatureExtractor, MapStore, MapStoreError, extract_maps, extract_to_store
from revelio_fast.store import ActivationStore, StoreError

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
        assert (store.metadata["layer"], store.metadata["timestep"]) == key
        assert tuple(store.maps.shape[1:]) == extractor.layer_shapes()[key[0]]
    assert len(MapStore.open(tmp_path / "up_ft1" / "t25")) == 11 and MapStoreError is StoreError


def test_maps_are_an_ordinary_store(extractor: FeatureExtractor, class_folder: Path, tmp_path: Path) -> None:
    options = {"batch_size": 4, "store_dtype": torch.float32, "progress": False}
    store = extract_maps(extractor, class_folder, tmp_path, shard_rows=3, **options)[KEY]
    assert isinstance(store, ActivationStore) and store.row_shape == extractor.layer_shapes()[KEY[0]]
    assert len(list(store.path.glob("shard-*.safetensors"))) == 4
    store.verify()
    some = torch.tensor([10, 0, 4])
    assert torch.equal(ActivationStore.open(store.path).read(some), store.maps[some])
    assert store.held() is not None and MapStore.open(store.path).held() is None
    # In one shard where all fit into 64 MiB.
    whole = extract_maps(extractor, class_folder, tmp_path / "whole", **options)[KEY]
    assert len(list(whole.path.glob("shard-*.safetensors"))) == 1 and torch.equal(whole.maps, store.maps)


def test_pooled_features_are_no_maps(extractor: FeatureExtractor, class_folder: Path, tmp_path: Path) -> None:
    extract_to_store(extractor, class_folder, tmp_path, progress=False)
    with pytest.raises(StoreError, match=r"holds rows of shape \[\d+\], not maps \[C, H, W\]: run .* with --maps"):
        MapStore.open(tmp_path / "up_ft1" / "t25")
    with pytest.raises(StoreError, match=r"row_shape was \(\d+,\), now \(\d+, \d+, \d+\)"):
        extract_maps(extractor, class_folder, tmp_path, store_dtype=torch.float32, progress=False)


def test_resume_false_begins_anew_but_not_where_the_manifest_is_missing(
    extractor: FeatureExtractor, class_folder: Path, tmp_path: Path
) -> None:
    store = extract_maps(extractor, class_folder, tmp_path, store_dtype=torch.float32, progress=False)[KEY]
    with pytest.raises(StoreError, match="dtype was 'float32', now 'bfloat16'"):
        extract_maps(extractor, class_folder, tmp_path, progress=False)
    assert extract_maps(extractor, class_folder, tmp_path, progress=False, resume=False)[KEY].dtype == torch.bfloat16
    (store.path / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"holds data of a store.*but no manifest.json"):
        extract_maps(extractor, class_folder, tmp_path, progress=False, resume=False)
    assert (store.path / "shard-00000.safetensors").is_file()


def test_names_and_digests_of_a_source_are_stored(
    extractor: FeatureExtractor, class_folder: Path, tmp_path: Path
) -> None:
    """Items that have a ``name`` and a ``content`` hand them on; those that have none do not."""

    class Named(ImageSource):
        def __getitem__(self, position: int) -> ImageItem:
            item = super().__getitem__(position)
            for name, value in (("name", f"{item.image_id}.png"), ("content", bytes([item.image_id + 1]) * 16)):
                object.__setattr__(item, name, value)
            return item

    plain = open_source(class_folder)
    named = Named(plain.name, plain.image_ids, list(plain.labels.values()), plain._paths, plain._opener)
    for write in (extract_maps, extract_to_store):
        store = write(extractor, named, tmp_path / f"named {write.__name__}", batch_size=4, progress=False)[KEY]
        assert store.names == [f"{i}.png" for i in range(11)]
        assert store.contents is not None and store.contents[:, 0].tolist() == list(range(1, 12))
    bare = extract_maps(extractor, plain.without_labels(), tmp_path / "bare", batch_size=4, progress=False)[KEY]
    assert bare.contents is None

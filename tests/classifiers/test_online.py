"""Diff-C on fresh crops: each epoch's maps are those of the extractor, and a cut-off run continues to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from revelio_fast.assets import mini_sd_path
from revelio_fast.classifiers import DiffCConfig, OnlineMaps, cached_training_maps, train_diffc_online
from revelio_fast.data import RandomCrops, open_source
from revelio_fast.features import FeatureExtractor, extract_maps

CONFIG = DiffCConfig(epochs=6, batch_size=4, width=16, lr=3e-3, lr_min=1e-3)


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor.from_pretrained(mini_sd_path(), ["up_ft2"], [25], seed=2)


def halves(pictures: Path):
    source = open_source(pictures)
    return source.subset(range(0, 40, 2)), source.subset(range(1, 40, 4))


def test_the_maps_are_those_of_each_epochs_crops_and_noise(extractor: FeatureExtractor, pictures: Path) -> None:
    source, crops = open_source(pictures), RandomCrops(32, seed=5)
    online = OnlineMaps(extractor, source, crops, batch_size=4)
    assert online.shape == (96, 8, 8) and online.labels.tolist() == [0] * 20 + [1] * 20
    rows = [torch.tensor([7, 30, 2, 21, 9]), torch.tensor([1, 0])]
    found = list(online.batches(rows, 3))
    assert [len(maps) for maps in found] == [5, 2]
    wanted = source.subset(torch.cat(rows).tolist())
    stream = extractor.stream(crops.source(wanted, 4), batch_size=4, pool=False, progress=False, draw=4)
    assert torch.equal(torch.cat(found), torch.cat([batch.features["up_ft2", 25] for batch in stream]))
    told = OnlineMaps(extractor, source, crops, 4, dict.fromkeys(source.image_ids, "a dark picture"))
    assert not torch.equal(next(told.batches(rows, 3)), found[0]) and told.key() != online.key()
    other = list(online.batches(rows, 4))
    assert not torch.equal(found[0], other[0])
    assert not list(online.batches([], 0))


def test_keys_tell_sources_apart(extractor: FeatureExtractor, pictures: Path) -> None:
    source, crops = open_source(pictures), RandomCrops(32)
    variations = [
        OnlineMaps(extractor, source, crops, 4),
        OnlineMaps(extractor, source.subset(range(30)), crops, 4),
        OnlineMaps(extractor, source, RandomCrops(32, hflip=False), 4),
        OnlineMaps(extractor, source, crops, 8),
        OnlineMaps(extractor, source.transformed(lambda _, image: image.rotate(180)), crops, 4),
    ]
    assert OnlineMaps(extractor, source, crops, 4).key() == variations[0].key()
    assert len({online.key() for online in variations}) == 5


def test_it_learns_and_continues_after_an_interrupt(
    extractor: FeatureExtractor, pictures: Path, tmp_path: Path, interrupted_after_saves
) -> None:
    def train(folder: str):
        return train_diffc_online(
            extractor, *halves(pictures), CONFIG, out_dir=tmp_path / folder, batch_size=4, progress=False
        )

    whole = train("whole")
    # Dark against light pictures; chance is 5 +- 1.6 of 10.
    assert whole.accuracy >= 0.9 and whole.class_names == ["dark", "light"] and whole.n_test == 10
    assert whole.metrics()["train_seconds_per_image"] > 0
    with interrupted_after_saves(1):
        train("cut")
    resumed = train("cut")
    weights = "model/model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "cut" / weights).read_bytes()
    assert [r.train_loss for r in whole.history] == [r.train_loss for r in resumed.history]


def test_cached_crops_are_not_mirrored_again(extractor: FeatureExtractor, pictures: Path, tmp_path: Path) -> None:
    source = open_source(pictures, limit=8)
    options = {"batch_size": 4, "store_dtype": torch.float32, "progress": False}
    (plain,) = extract_maps(extractor, source, tmp_path / "plain", **options).values()
    (cropped,) = extract_maps(extractor, source, tmp_path / "cropped", num_crops=1, **options).values()
    rows = [torch.arange(8)]
    assert torch.equal(next(cached_training_maps(cropped, CONFIG).batches(rows, 0)), cropped.variants()[0].maps)
    mirrored = next(cached_training_maps(plain, CONFIG).batches(rows, 0))
    turned = [not torch.equal(a, b) for a, b in zip(mirrored, plain.maps, strict=True)]
    assert 0 < sum(turned) < 8
    assert cached_training_maps(plain, CONFIG, torch.tensor([5, 1])).labels.tolist() == [1, 0]


KILLED = """
import os, signal, sys
import revelio_fast.classifiers.training as module
from tests.classifiers.test_online import CONFIG, halves
from revelio_fast.classifiers import train_diffc_online
from revelio_fast.features import FeatureExtractor
model, pictures, out = sys.argv[1:]
save = module.save_checkpoint
def save_then_die(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
module.save_checkpoint = save_then_die
extractor = FeatureExtractor.from_pretrained(model, ["up_ft2"], [25], seed=2)
train_diffc_online(extractor, *halves(pictures), CONFIG, out_dir=out, batch_size=4, progress=False)
"""


@pytest.mark.slow
def test_kills_change_nothing(extractor: FeatureExtractor, pictures: Path, tmp_path: Path) -> None:
    whole = train_diffc_online(
        extractor, *halves(pictures), CONFIG, out_dir=tmp_path / "whole", batch_size=4, progress=False
    )
    command = [sys.executable, "-c", KILLED, str(mini_sd_path()), str(pictures), str(tmp_path / "cut")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for _ in range(2):
        assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGKILL
    resumed = train_diffc_online(
        extractor, *halves(pictures), CONFIG, out_dir=tmp_path / "cut", batch_size=4, progress=False
    )
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_broken_images_stop_the_training_or_are_left_out(
    extractor: FeatureExtractor, pictures: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    (folder / "dark" / "04.png").write_bytes(b"no picture")
    train, test = halves(folder)
    options = {"batch_size": 4, "progress": False}
    with pytest.raises(ValueError, match=r"04\.png"):
        train_diffc_online(extractor, train, test, CONFIG, out_dir=tmp_path / "stop", **options)
    result = train_diffc_online(extractor, train, test, CONFIG, out_dir=tmp_path / "skip", on_error="skip", **options)
    assert result.n_train == 19


def test_bad_input_is_named(tiny_sd: Path, extractor: FeatureExtractor, pictures: Path, tmp_path: Path) -> None:
    source = open_source(pictures)
    two = FeatureExtractor.from_pretrained(tiny_sd, ["bottleneck"], [25, 200])
    with pytest.raises(ValueError, match="one layer at one timestep, the extractor gives 2"):
        OnlineMaps(two, source, RandomCrops(32))
    with pytest.raises(ValueError, match="crops have 64 pixels, the extractor takes 32"):
        OnlineMaps(extractor, source, RandomCrops(64))
    with pytest.raises(ValueError, match="has no labels"):
        train_diffc_online(extractor, pictures / "dark", source, CONFIG, out_dir=tmp_path, progress=False)

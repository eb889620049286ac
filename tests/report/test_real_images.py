"""The way from real photographs to a report, with raw pixels as features."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from revelio_fast.concepts import label_purity, linear_probe, pixel_features, rank_latents, top_images
from revelio_fast.ksae import KSparseAutoencoder
from revelio_fast.report import FeatureResult, RunSummary, write_report
from revelio_fast.store import ActivationStore

CLASSES = 12


@pytest.fixture(scope="module")
def photos(shared_data):
    folders = sorted((shared_data / "flowers102_train" / "images").iterdir())[:CLASSES]
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    labels = torch.tensor([folders.index(path.parent) for path in paths])
    return paths, labels, [folder.name for folder in folders]


def test_photographs_to_report(photos, tmp_path):
    paths, labels, names = photos
    assert len(paths) == 10 * CLASSES
    features = pixel_features((Image.open(path) for path in paths), size=12)
    ids = torch.arange(len(paths)) * 3 + 1
    store = ActivationStore.from_tensors(tmp_path / "store", features.bfloat16(), ids, labels, shard_rows=50)
    torch.manual_seed(0)
    sae = KSparseAutoencoder(store.d, k=16, n_latents=64)
    with torch.no_grad():
        sae.b_pre.copy_(store.features().mean(0))
    tops = top_images(sae, store, 10)
    named = dict(zip(store.image_ids.tolist(), store.labels.tolist(), strict=True))
    purity = label_purity(tops, named, permutations=50, bootstrap=50)

    best = int(rank_latents(tops)[0])
    dense = (store.features() - sae.b_pre) @ sae.W_enc[best] + sae.b_enc[best]
    chosen = (sae.encode(store.features()).indices == best).any(1)
    strongest = dense.masked_fill(~chosen, -torch.inf).argmax()
    assert tops.image_ids[best, 0] == store.image_ids[strongest]

    even = torch.arange(len(paths)) % 2 == 0
    probe = linear_probe(features[even], labels[even], features[~even], labels[~even])
    assert probe.interval[0] > 1 / CLASSES, "colours alone tell some flowers apart"

    run = FeatureResult(
        layer="pixels", timestep=0, d=store.d, n_latents=64, k=16, purity=purity, probe=probe, tops=tops
    )
    summary = RunSummary("Flowers", "none", "flowers", len(store), class_names=names, labels=named, features=[run])
    report = write_report(summary, tmp_path / "report", load_image=lambda i: Image.open(paths[(i - 1) // 3]), latents=2)
    text = report.read_text()
    assert "sheets/pixels_t0/overview.png" in text and "could not show" not in text
    sheet = Image.open(report.parent / "sheets" / "pixels_t0" / f"latent-{purity.latents[0]:06d}.png")
    assert len(sheet.getcolors(2**24)) > 1000, "a sheet of photographs has many colours"

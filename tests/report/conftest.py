"""A small summary with planted latents, as the pipeline would fill it."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from revelio_fast.concepts import TopActivations, label_purity, linear_probe
from revelio_fast.ops import Code
from revelio_fast.report import ClassifierResult, FeatureResult, RunSummary
from revelio_fast.statistics import images_key, marks, wilson_interval

NAMES = ["zero", "one", "two | half", "a class with a very long name indeed, longer than a tile", "ドラゴン"]
IMAGES, CLASSES, LATENTS = 200, len(NAMES), 40


def labels_of_images() -> torch.Tensor:
    return torch.arange(IMAGES) % CLASSES


def planted(noise: float) -> TopActivations:
    """Latent j belongs to class j % 5; with noise 1 the activation ignores the class."""
    generator = torch.Generator().manual_seed(1)
    tops = TopActivations(LATENTS + 1, 12)
    strength = torch.rand(IMAGES, LATENTS, generator=generator)
    own = labels_of_images()[:, None] == torch.arange(LATENTS)[None, :] % CLASSES
    values = strength * noise + own * (1 - noise)
    tops.update(Code(values, torch.arange(LATENTS).expand(IMAGES, -1).contiguous()), torch.arange(IMAGES))
    return tops


def picture(image_id: int) -> Image.Image:
    if image_id == 3:
        raise OSError("cannot identify image file 'three.jpg'")
    return Image.new("RGB", (40 + image_id % 3, 30), ((image_id * 37) % 256, 80, 160))


def classifier(hits: int, **more) -> ClassifierResult:
    """A classifier that is right on the first of 100 test images, as many as asked for."""
    right, ids = torch.arange(100) < hits, torch.arange(100)
    return ClassifierResult(
        accuracy=hits / 100, interval=wilson_interval(hits, 100), chance=1 / CLASSES, n_train=100, n_test=100,
        n_classes=CLASSES, epochs=3, parameters=1000, correct=marks(right, ids), images=images_key(ids),
        per_class_accuracy=[{"class": name, "images": 20, "accuracy": hits / 100} for name in NAMES], **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def summary() -> RunSummary:
    labels = labels_of_images()
    onehot = torch.nn.functional.one_hot(labels, CLASSES).float()
    good = onehot + 0.3 * torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(0))
    bad = torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(0))
    probes = [linear_probe(x[:100], labels[:100], x[100:], labels[100:]) for x in (bad, good)]
    layers = []
    for layer, timestep, noise in (
        ("bottleneck", 25, 1.0),
        ("bottleneck", 200, 1.0),
        ("up_ft1", 25, 0.1),
        ("up_ft1", 200, 0.8),
    ):
        tops = planted(noise)
        layers.append(
            FeatureResult(
                layer=layer,
                timestep=timestep,
                d=64,
                n_latents=tops.n_latents,
                k=4,
                n_images=IMAGES,
                purity=label_purity(tops, labels, permutations=100, bootstrap=100),
                probe=probes[0],
                tops=tops,
                history={
                    "step": [0, 20],
                    "fvu": [0.9, 0.2],
                    "l0": [4, 4],
                    "dead": [3, 1],
                    "holdout_fvu": [float("nan"), 0.3],
                },
                metrics={"fvu": 0.2, "holdout_fvu": float("nan"), "l0": 4.0, "dead": 1.0},
                seconds={"extract": 1.25},
            )
        )
    return RunSummary(
        title="Test run",
        model="mini-sd",
        dataset="planted",
        n_images=IMAGES,
        class_names=NAMES,
        labels=dict(enumerate(labels.tolist())),
        features=[
            *layers,
            FeatureResult("raw pixels", detail="8 x 8 px", probe=probes[1], purity=layers[2].purity),
            FeatureResult("random weights", "up_ft1", 25, probe=probes[0], purity=layers[0].purity),
        ],
        classifiers=[
            classifier(95, layer="up_ft1", timestep=25),
            classifier(50, layer="up_ft1", timestep=25, name="random weights"),
        ],
        config={"model": "mini-sd", "layers": ["bottleneck", "up_ft1"]},
        versions={"torch": "test"},
        seconds={"total": 12.5},
        notes=["Two images were skipped."],
    )

"""The data sets of the paper by name: where they come from, how they are laid out, and sentences for their classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from revelio_fast.data.errors import SourceError

ROOT_VARIABLE = "REVELIO_DATA"
PREFIX = "paper:"


@dataclass(frozen=True)
class PaperDataset:
    """One line of the table. Sizes, classes and licences are unchecked: the pages that state them were out of reach.

    Attributes
    ----------
    title : str
    hub_id : str or None
        On the Hugging Face Hub, default configuration. None: not there as far as we know, a local copy is needed.
    image_column, label_column : str
        Of the Hub's parquet files.
    splits : mapping of str to int
        Images of each split, as published.
    n_classes : int
        As published; 0 if its images have no class.
    templates : tuple of str
        Zero-shot sentences around a class name, for CLIP; the first is also the prompt that `FromClip` gives.
    use : str
        What the paper does with it.
    licence : str
        As its authors or the Hub's page state it; read it there before you rely on it.
    """

    title: str
    hub_id: str | None
    image_column: str
    label_column: str
    splits: Mapping[str, int]
    n_classes: int
    templates: tuple[str, ...]
    use: str
    licence: str


PHOTO_TEMPLATES = (
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a small picture of a {}.",
    "a bright photo of one {}.",
    "a blurry photo of a {}.",
)

PAPER_DATASETS: dict[str, PaperDataset] = {
    "pets": PaperDataset(
        "Oxford-IIIT Pet",
        "timm/oxford-iiit-pet",
        "image",
        "label",
        {"train": 3680, "test": 3669},
        37,
        (
            "a photo of a {}, a breed of cat or dog.",
            "a close-up of a {}, somebody's pet.",
            "a picture of a {} at home.",
            "a {} looking into the camera.",
        ),
        "k-SAE, Diff-C",
        "CC BY-SA 4.0",
    ),
    "caltech101": PaperDataset(
        "Caltech-101",
        "dpdl-benchmark/caltech101",
        "image",
        "label",
        {"train": 3059, "test": 6084},
        102,
        PHOTO_TEMPLATES,
        "k-SAE, Diff-C; one of the 102 classes is clutter (background_google)",
        "CC BY 4.0",
    ),
    "aircraft": PaperDataset(
        "FGVC-Aircraft",
        "dpdl-benchmark/fgvc_aircraft",
        "image",
        "variant",
        {"train": 3334, "validation": 3333, "test": 3333},
        100,
        (
            "a photo of a {}, a kind of aircraft.",
            "a photo of a {} in flight.",
            "a photo of a {} on the runway.",
            "a side view of the aircraft {}.",
        ),
        "Diff-C",
        "non-commercial research only",
    ),
    "flowers102": PaperDataset(
        "Oxford Flowers-102",
        "dpdl-benchmark/oxford_flowers102",
        "image",
        "label",
        {"train": 1020, "validation": 1020, "test": 6149},
        102,
        (
            "a photo of a {}, a kind of flower.",
            "a close-up of the blossom of a {}.",
            "a {} in a garden.",
            "the petals of a {}.",
        ),
        "the authors' demonstration page",
        "none stated",
    ),
    "imagenet": PaperDataset(
        "ImageNet-1k, short side 256",
        "evanarlian/imagenet_1k_resized_256",
        "image",
        "label",
        {"train": 1_281_167, "val": 50_000, "test": 100_000},
        1000,
        PHOTO_TEMPLATES,
        "k-SAE",
        "non-commercial research and education only",
    ),
    "unrel": PaperDataset(
        "UnRel, unusual relations (https://www.di.ens.fr/willow/research/unrel)",
        None,
        "image",
        "none",
        {"all": 1071},
        0,
        (),
        "PCA maps",
        "none stated",
    ),
    "cifar10": PaperDataset(
        "CIFAR-10",
        "uoft-cs/cifar10",
        "img",
        "label",
        {"train": 50_000, "test": 10_000},
        10,
        PHOTO_TEMPLATES,
        "not in the paper; small and quick",
        "none stated",
    ),
}
"""Our name -> the data set. Hub ids are those that the authors' and other public code use; nothing here has loaded
them from the Hub yet."""


def paper_name(spec: str) -> str | None:
    """``"flowers102"`` for ``"flowers102"`` and ``"paper:flowers102"``; None for what is no name of the table.

    Raises
    ------
    SourceError
        For an unknown name behind ``"paper:"``.
    """
    name = spec.removeprefix(PREFIX)
    if name in PAPER_DATASETS:
        return name
    if spec.startswith(PREFIX):
        raise SourceError(f"There is no data set {name!r} in the table: it has {', '.join(PAPER_DATASETS)}.")
    return None


def local_copy(name: str, root: str | os.PathLike[str] | None) -> Path | None:
    """``ROOT/name`` if it is there; ROOT is `root` or the variable REVELIO_DATA.

    Raises
    ------
    SourceError
        If `root` was given and lacks it, or it is nowhere and not on the Hub either.
    """
    where = root or os.environ.get(ROOT_VARIABLE)
    folder = Path(where).expanduser() / name if where else None
    if folder is not None and folder.exists():
        return folder
    if root is not None:
        raise SourceError(f"There is no {folder}: root must be the folder that holds {name!r}.")
    if PAPER_DATASETS[name].hub_id is None:
        raise SourceError(
            f"{name} ({PAPER_DATASETS[name].title}) is not on the Hugging Face Hub: put its images into a folder "
            f"{name!r} and give the folder above it with root, or with the variable {ROOT_VARIABLE}."
        )
    return None


def check_classes(name: str, found: int | None, where: str) -> None:
    """Refuse a copy whose number of class names is not the published one: it would be another data set."""
    expected = PAPER_DATASETS[name].n_classes
    if found is not None and found != expected:
        raise SourceError(
            f"{where} names {found} classes, but {name} has {expected}: "
            "is this the right folder, split and label column? A part of it can be opened by its own path."
        )

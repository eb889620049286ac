"""What a run starts from: the model's folder, the training and test images, and digests that tell them apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from revelio_fast import seeds
from revelio_fast.config import RunConfig, SourceSection
from revelio_fast.data import ImageSource
from revelio_fast.data.paper_datasets import local_copy, paper_name
from revelio_fast.models import MINI_SD
from revelio_fast.models.prompts import PromptConfig
from revelio_fast.models.spec import model_location

WHOLE_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Images:
    """The two halves of a data set; `test` is None where nothing can be tested, and `notes` says why."""

    train: ImageSource
    test: ImageSource | None
    notes: tuple[str, ...]
    key: str

    @property
    def labelled(self) -> bool:
        """Whether any training image has a label."""
        return any(label >= 0 for label in self.train.labels.values())

    @property
    def class_names(self) -> list[str]:
        """One name for each label of either half; the number itself where the source has no names."""
        sources = [self.train, *([self.test] if self.test else [])]
        largest = max((label for source in sources for label in source.labels.values()), default=-1)
        known = next((source.class_names for source in sources if source.class_names), None) or []
        return [known[label] if label < len(known) else str(label) for label in range(max(largest + 1, len(known)))]


def model_key(model: str, revision: str | None) -> dict[str, Any]:
    """What identifies a model's weights: names, sizes and contents of a folder's files; of a Hub id, its revision.

    Of files over 64 MiB only the size, the first and the last MiB are read.
    """
    folder = Path(model_location(model)).expanduser()
    if not folder.is_dir():
        return {"model": model, "revision": revision}
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".safetensors", ".bin")):
        digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        _add_file(digest, path)
    return {"model": MINI_SD if model == MINI_SD else folder.name, "files": digest.hexdigest()}


def prompts_key(config: RunConfig) -> Any:
    """What identifies the prompts: the text that all share, or the section and the contents of what it names."""
    section = config.prompts
    if section == PromptConfig():
        return config.prompt
    named = {name: value for name, value in section.as_json().items() if value is not None}
    if section.file is not None:
        named["file"] = hashlib.sha256(Path(section.file).expanduser().read_bytes()).hexdigest()
    if section.from_clip is not None:
        named["from_clip"] = model_key(section.from_clip, section.clip_revision)
    return named


def open_images(config: RunConfig) -> Images:
    """Open the training images and the test images of a run; without a test split, hold out a share of each class.

    Raises
    ------
    SourceError
        If a source cannot be opened.
    """
    section = config.source
    train = section.open(section.spec)
    notes: list[str] = []
    test: ImageSource | None = None
    if section.test_split is not None:
        test = section.open_test()
    elif any(label >= 0 for label in train.labels.values()):
        whole = len(train)
        train, test = hold_out(train, section.test_share, config.seed)
        if section.test_limit is not None:
            test = test.limited(section.test_limit)
        notes.append(
            f"The source has no test split: {len(test)} of its {whole} images, {section.test_share:.0%} of each class, "
            "were held out; nothing was trained on them."
        )
    images = Images(train, test, (), "")
    if not images.labelled:
        test = None
        notes.append("The images have no labels: purity, linear probes and Diff-C were left out.")
    return Images(train, test, tuple(notes), _images_key(section, train, test))


def hold_out(source: ImageSource, share: float, seed: int) -> tuple[ImageSource, ImageSource]:
    """Split a source into training and test images: `share` of each class, at least one if it has two or more.

    Unlabelled images stay with the training images.
    """
    keep, held = hold_out_positions(list(source.labels.values()), share, seed)
    return source.subset(keep), source.subset(held)


def hold_out_positions(labels: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions to train on and positions held out, both rising; see `hold_out`."""
    by_label: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        by_label.setdefault(label, []).append(position)
    generator = seeds.generator(seed, "hold-out")
    held: set[int] = set()
    for label, positions in sorted(by_label.items()):
        if label >= 0 and len(positions) > 1:
            count = min(len(positions) - 1, max(1, round(share * len(positions))))
            held |= {positions[i] for i in torch.randperm(len(positions), generator=generator)[:count].tolist()}
    return [position for position in range(len(labels)) if position not in held], sorted(held)


def _images_key(section: SourceSection, train: ImageSource, test: ImageSource | None) -> str:
    """A digest of ids, labels, names and, where they are files here, sizes and times of the images."""
    digest = hashlib.sha256()
    spec = Path(section.spec).expanduser()
    name = None if spec.exists() else paper_name(section.spec)
    if name is not None:
        spec = local_copy(name, section.root) or spec
    for path in [spec] if spec.is_file() else sorted(spec.rglob("*.parquet")) if spec.is_dir() else []:
        digest.update(_stat_line(str(path)))
    for source in (train, test):
        digest.update(f"{source.name if source else None} {source.class_names if source else None}\n".encode())
        for item in source or ():
            digest.update(f"{item.image_id} {item.label} {item.path}\n".encode())
            digest.update(_stat_line(item.path))
    return digest.hexdigest()


def _stat_line(path: str) -> bytes:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return b""
    return f"{found.st_size} {found.st_mtime_ns}\n".encode()


def _add_file(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            digest.update(file.read())
            return
        digest.update(file.read(1 << 20))
        file.seek(-(1 << 20), os.SEEK_END)
        digest.update(file.read())

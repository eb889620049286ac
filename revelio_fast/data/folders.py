"""Images in folders: one folder per class, or all in one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from revelio_fast.data.image_source import NO_LABEL, ImageSource, SourceError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def open_image(path: str | os.PathLike[str]) -> Image:
    """Decode one file."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image


def open_folder(folder: Path, split: str | None) -> ImageSource:
    """A folder of class folders (label = position of the folder's name in alphabetical order) or a flat one."""
    root = folder
    if split is not None:
        root = folder / split
        if not root.is_dir():
            found = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())[:10]) or "none"
            raise SourceError(f"{folder} has no subfolder {split!r} for the split; its subfolders: {found}.")
    files = sorted(
        (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()),
        key=lambda path: path.relative_to(root).as_posix(),
    )
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not files:
        raise SourceError(
            f"{root} holds no images (looked in all subfolders for {', '.join(sorted(SUFFIXES))}). "
            "Give a folder of class folders, a flat folder of images, or a CSV of files and labels."
        )
    classes = [path.relative_to(root).parts[0] if path.parent != root else None for path in files]
    name = str(folder) if split is None else f"{folder} ({split})"
    if all(each is None for each in classes):
        return _source(name, files, [NO_LABEL] * len(files), None)
    if None in classes:
        loose = files[classes.index(None)]
        raise SourceError(
            f"{root} holds class folders and also loose images ({loose.name}): move those into a class folder, "
            "or give a CSV of files and labels."
        )
    names = sorted({each for each in classes if each is not None})
    return _source(name, files, [names.index(str(each)) for each in classes], names)


def _source(name: str, files: list[Path], labels: list[int], class_names: list[str] | None) -> ImageSource:
    return ImageSource(
        name,
        range(len(files)),
        labels,
        paths=lambda image_id: str(files[image_id]),
        opener=lambda image_id: open_image(files[image_id]),
        class_names=class_names,
    )

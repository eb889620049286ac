"""Images in folders: one folder per class, or all in one."""

from __future__ import annotations

from pathlib import Path

from revelio_fast.data.decode import FORMATS
from revelio_fast.data.errors import SourceError
from revelio_fast.data.identity import normal_name
from revelio_fast.data.image_source import NO_LABEL, ImageSource

SUFFIXES = frozenset(f".{each}" for each in FORMATS)


def open_folder(folder: Path, split: str | None) -> ImageSource:
    """A folder of class folders (label = position of the folder's name in alphabetical order) or a flat one.

    An image's name is its path relative to `folder`, with that of the split.
    """
    root = folder
    if split is not None:
        root = folder / split
        if not root.is_dir():
            found = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())[:10]) or "none"
            raise SourceError(f"{folder} has no subfolder {split!r} for the split; its subfolders: {found}.")
    files = sorted(
        (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()),
        key=lambda path: normal_name(path.relative_to(root).as_posix()),
    )
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not files:
        raise SourceError(
            f"{root} holds no images (looked in all subfolders for {', '.join(sorted(SUFFIXES))}). "
            "Give a folder of class folders, a flat folder of images, or a CSV of files and labels."
        )
    classes = [normal_name(path.relative_to(root).parts[0]) if path.parent != root else None for path in files]
    labels, class_names = [NO_LABEL] * len(files), None
    if None in classes and any(classes):
        loose = files[classes.index(None)]
        raise SourceError(
            f"{root} holds class folders and also loose images ({loose.name}): move those into a class folder, "
            "or give a CSV of files and labels."
        )
    if any(classes):
        class_names = sorted({str(each) for each in classes})
        position = {name: label for label, name in enumerate(class_names)}
        labels = [position[str(each)] for each in classes]
    return ImageSource(
        str(folder) if split is None else f"{folder} ({split})",
        [path.relative_to(folder).as_posix() for path in files],
        labels,
        paths=lambda row: str(files[row]),
        opener=lambda row: files[row],
        class_names=class_names,
        names_are=f"paths relative to {folder}",
    )

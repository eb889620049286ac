"""Hugging Face data sets as image sources: from the Hub, from parquet files, or saved to disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from revelio_fast.data.errors import SourceError
from revelio_fast.data.image_source import NO_LABEL, ImageSource
from revelio_fast.data.labels import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    NO_COLUMN,
    find_column,
    missing_column,
    to_labels,
)

if TYPE_CHECKING:
    from revelio_fast.data.decode import Encoded

ID_COLUMNS = ("image_id", "id")


HUB_SECONDS = 10.0


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            "Hugging Face data sets and parquet files need the package datasets: pip install 'revelio-fast[data]'."
        ) from error
    return datasets


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` was written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_parquet_folder(folder: Path) -> bool:
    """Whether `folder` or its ``data`` holds parquet files, as a data set on the Hub does."""
    return any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet"))


def open_hub(name: str, split: str | None, image_column: str | None, label_column: str | None) -> ImageSource:
    """A data set by its id on the Hub, e.g. ``"timm/oxford-iiit-pet"``."""
    datasets = _datasets()
    offline, unreachable = datasets.config.HF_HUB_OFFLINE, None if datasets.config.HF_HUB_OFFLINE else _asked(name)
    try:
        # By itself the library asks a Hub that is out of reach six times before it looks into the local cache.
        datasets.config.HF_HUB_OFFLINE = offline or unreachable is not None
        loaded = datasets.load_dataset(name)
    except Exception as error:
        reason = unreachable or error
        raise SourceError(
            f"{name!r} is neither a file, a folder, 'digits', nor a data set that could be loaded from the Hugging "
            f"Face Hub ({type(reason).__name__}: {str(reason).strip().splitlines()[0] if str(reason).strip() else ''})."
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    return _choose(loaded, name, split, image_column, label_column)


def _asked(name: str) -> Exception | None:
    """Why the Hub gives no answer on a data set; None if it answers, whatever it says."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(name, timeout=HUB_SECONDS)
    except HfHubHTTPError:
        return None
    except Exception as error:
        return error
    return None


def open_saved(folder: Path, split: str | None, image_column: str | None, label_column: str | None) -> ImageSource:
    """A data set written by ``save_to_disk``."""
    datasets = _datasets()
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise SourceError(f"{folder} cannot be read as a saved data set: {error}.") from error
    return _choose(loaded, str(folder), split, image_column, label_column)


def open_parquet_folder(
    folder: Path, split: str | None, image_column: str | None, label_column: str | None
) -> ImageSource:
    """A folder of parquet files named as the Hub names them: ``train-00000-of-00001.parquet`` ..."""
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("data/*.parquet"))
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(re.sub(r"(-\d+)?(-of-\d+)?(-[0-9a-f]+)?$", "", file.stem), []).append(file)
    chosen = _pick(splits, str(folder), split)
    return open_parquet(splits[chosen], f"{folder} ({chosen})", image_column, label_column, chosen)


def open_parquet(
    files: list[Path], name: str, image_column: str | None, label_column: str | None, split: str | None = None
) -> ImageSource:
    """The rows of these parquet files, one after the other."""
    datasets = _datasets()
    try:
        data = datasets.Dataset.from_parquet([str(file) for file in files])
    except Exception as error:
        raise SourceError(f"{name} cannot be read as parquet: {error}.") from error
    return _source(data, name, image_column, label_column, split)


def _choose(
    loaded: Any, name: str, split: str | None, image_column: str | None, label_column: str | None
) -> ImageSource:
    if isinstance(loaded, Mapping):
        chosen = _pick(loaded, name, split)
        return _source(loaded[chosen], f"{name} ({chosen})", image_column, label_column, chosen)
    if split is not None:
        raise SourceError(f"{name} has no splits: leave out split={split!r}.")
    return _source(loaded, name, image_column, label_column, None)


def _pick(splits: Mapping[str, Any], name: str, split: str | None) -> str:
    if split is None:
        split = "train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None
    if split is None or split not in splits:
        asked = "give one with split" if split is None else f"there is no {split!r}"
        raise SourceError(f"{name} has the splits {', '.join(map(repr, splits))}: {asked}.")
    return split


def _source(data: Any, name: str, image_column: str | None, label_column: str | None, split: str | None) -> ImageSource:
    datasets = _datasets()
    if len(data) == 0:
        raise SourceError(f"{name} has no rows.")
    columns = list(data.features)
    typed = [column for column, kind in data.features.items() if isinstance(kind, datasets.Image)]
    column = find_column(columns, image_column, [*typed, *IMAGE_COLUMNS], "image", name)
    if column is None:
        raise missing_column(columns, "image", name)
    labels, class_names = [NO_LABEL] * len(data), None
    if label_column != NO_COLUMN:
        wanted = find_column(columns, label_column, LABEL_COLUMNS, "label", name)
        if wanted is not None:
            kind = data.features[wanted]
            labels, class_names = to_labels(list(data.select_columns([wanted])[:][wanted]), name)
            if isinstance(kind, datasets.ClassLabel):
                class_names = list(kind.names)
    images = data.select_columns([column])
    if isinstance(data.features[column], datasets.Image):
        # Undecoded, so that a broken row is met one by one and can be named.
        images = images.cast_column(column, datasets.Image(decode=False))
    names, names_are = _names(data, columns)
    return ImageSource(
        name,
        [each if split is None else f"{split}/{each}" for each in names],
        labels,
        paths=lambda row: f"{name}, row {row}",
        opener=lambda row: _encoded(images[row][column]),
        class_names=class_names,
        columns={
            each: lambda each=each: data.select_columns([each])[:][each]  # type: ignore[misc]
            for each in columns
            if each != column
        },
        names_are=names_are,
    )


def _names(data: Any, columns: list[str]) -> tuple[list[str], str]:
    """The key of each row, and what it is: the first id column that tells all rows apart, else the row number."""
    for column in ID_COLUMNS:
        if column in columns:
            values = list(data.select_columns([column])[:][column])
            if all(isinstance(each, int | str) for each in values) and len(set(map(str, values))) == len(values):
                return list(map(str, values)), f"column {column!r}"
    return list(map(str, range(len(data)))), "row numbers"


def _encoded(value: Any) -> Encoded:
    from PIL import Image

    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | str | Image.Image):
        return value
    raise ValueError(f"the cell holds {type(value).__name__}, not an image")

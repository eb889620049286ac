"""Extraction to activation stores: one store per layer and timestep, resumable after a kill."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from revelio_fast.csv_text import write_csv
from revelio_fast.data import BrokenImageError, ImageSource, open_source
from revelio_fast.features.extractor import FeatureExtractor, Key
from revelio_fast.features.fill import fill
from revelio_fast.features.prompt_record import record, record_name
from revelio_fast.features.same_images import contents_of, refuse_other_images
from revelio_fast.store import ActivationStore

SHARD_ROWS = 2048
SKIPPED = "skipped.csv"
"""The list of images that an extraction left out."""


def layer_metadata(extractor: FeatureExtractor, source: ImageSource, key: Key) -> dict[str, Any]:
    """What a manifest says of one layer at one timestep."""
    layer, timestep = key
    return {
        **extractor.metadata(),
        "layer": layer,
        "timestep": timestep,
        "source": source.name,
        "class_names": source.class_names,
        **({"dataset": source.dataset} if source.dataset else {}),
        "skipped": f"../../{SKIPPED}",
        **({"prompts": f"../../{name}"} if (name := record_name(extractor.prompts)) else {}),
    }


def image_prompts(
    extractor: FeatureExtractor, source: ImageSource, out_dir: str | os.PathLike[str], on_error: str, progress: bool
) -> dict[int, str]:
    """The prompt of each image, recorded in ``out_dir`` unless all share one.

    Raises
    ------
    SourceError
        If an image has none, or another than when the extraction was begun.
    """
    texts = extractor.prompts.texts(source, cache_dir=out_dir, on_error=on_error, progress=progress)
    name = record_name(extractor.prompts)
    if name is not None:
        path = Path(out_dir) / name
        if not any(Path(out_dir).glob("*/*/manifest.json")):
            path.unlink(missing_ok=True)
        record(path, texts, source)
    return texts


def layer_folder(out_dir: str | os.PathLike[str], key: Key) -> Path:
    """``out_dir/<layer>/t<timestep>``."""
    return Path(out_dir) / key[0] / f"t{key[1]}"


def extract_to_store(
    extractor: FeatureExtractor,
    source: ImageSource | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    store_dtype: torch.dtype = torch.float32,
    shard_rows: int = SHARD_ROWS,
    on_error: str = "stop",
    progress: bool = True,
    resume: bool = True,
    workers: int | None = None,
) -> dict[Key, ActivationStore]:
    """Extract the pooled features of a source into ``out_dir/<layer>/t<timestep>/``.

    What is on disk is kept: after a crash or a kill the same call continues, and the finished files are identical
    to those of an undisturbed run with the same `batch_size`. Rows not yet in a full shard are saved once a minute.
    A thread of its own writes while the next images are computed.

    Parameters
    ----------
    extractor : FeatureExtractor
    source : ImageSource, str or path
        Anything `open_source` takes.
    out_dir : path
    batch_size : int
        Images of a forward.
    store_dtype : torch.dtype
        float32, bfloat16 or float16.
    shard_rows : int
        Rows of a shard file.
    on_error : {"stop", "skip"}
        A broken image stops the extraction, or is left out and listed in ``out_dir/skipped.csv``.
    progress : bool
        Show a progress bar.
    resume : bool
        False deletes the stores of these layers and timesteps first.
    workers : int, optional
        Threads that decode images; see `FeatureExtractor.stream`.

    Returns
    -------
    dict
        ``{(layer, timestep): ActivationStore}``, complete.

    Raises
    ------
    StoreError
        If a folder holds features made with other settings; the message says which.
    SourceError
        If a folder holds features of images that the source does not have, or not as they were.
    BrokenImageError
        With ``on_error="stop"``; what was done is kept.
    """
    source = open_source(source)
    folders = {key: layer_folder(out_dir, key) for key in extractor.keys}
    if not resume:
        remove_stores(folders.values())
    prompts = image_prompts(extractor, source, out_dir, on_error, progress)
    shapes = {key: extractor.layer_shapes()[key[0]][:1] for key in folders}
    metadata = {key: layer_metadata(extractor, source, key) for key in folders}
    write_stores(
        extractor, source, folders, shapes, metadata, store_dtype, shard_rows, batch_size=batch_size,
        on_error=on_error, progress=progress, prompts=prompts, workers=workers,
    )  # fmt: skip
    write_skipped(Path(out_dir), extractor.skipped)
    return {key: ActivationStore.open(folder) for key, folder in folders.items()}


def remove_stores(folders: Iterable[Path]) -> None:
    """Delete the stores in these folders; a folder without a manifest is left alone."""
    for folder in folders:
        if (folder / "manifest.json").is_file():
            shutil.rmtree(folder)


def write_stores(
    extractor: FeatureExtractor,
    source: ImageSource,
    folders: Mapping[Key, Path],
    shapes: Mapping[Key, tuple[int, ...]],
    metadata: Mapping[Key, dict[str, Any]],
    dtype: torch.dtype,
    shard_rows: int | None,
    **options: Any,
) -> None:
    """Fill one store for each layer and timestep; `options` are those of `FeatureExtractor.stream`.

    Raises
    ------
    SourceError
        If a store has rows of images that the source does not have, or not as they were.
    """
    content = contents_of(source)
    with ExitStack() as stack:
        writers = {
            key: stack.enter_context(ActivationStore.create(folder, shapes[key], dtype, shard_rows, **metadata[key]))
            for key, folder in folders.items()
        }
        for folder in folders.values():
            refuse_other_images(source, ActivationStore.open(folder, allow_incomplete=True), content)
        fill(extractor, source, writers, **options)


def write_skipped(folder: Path, skipped: Sequence[BrokenImageError]) -> None:
    """Write ``image_id,path,reason``, one line per broken image; only the header if there are none."""
    rows = [[error.image_id, error.path, error.reason] for error in skipped]
    write_csv(folder / SKIPPED, ["image_id", "path", "reason"], rows)

"""The top images of latents as a list for other programs: CSV, an image a line, and JSON, a latent an entry."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revelio_fast.atomic import atomic_write_json
from revelio_fast.concepts.purity import rank_latents
from revelio_fast.concepts.top_activations import TopActivations
from revelio_fast.csv_text import write_csv

COLUMNS = ("latent", "place", "image_id", "file", "activation", "label", "class_name")


def top_list(
    tops: TopActivations,
    *,
    file_names: Mapping[int, str] | None = None,
    labels: Mapping[int, int] | None = None,
    class_names: Sequence[str] = (),
    latents: int | None = None,
) -> list[dict[str, Any]]:
    """The active latents, best ranked first (see `rank_latents`), with their statistics and images.

    Parameters
    ----------
    tops : TopActivations
    file_names : mapping of int to str, optional
        Name of each image id; None where one is missing.
    labels : mapping of int to int, optional
        Label of each image id; -1 or no entry: none.
    class_names : sequence of str
        Name of each label.
    latents : int, optional
        At most so many; all that were ever active by default.

    Returns
    -------
    list of dict
        ``latent``, ``active`` (in how many images), ``mean_activation`` and ``images``: ``image_id``, ``file``,
        ``activation``, ``label`` (None without one) and ``class_name`` of each, strongest first.
    """
    names, known = file_names or {}, labels or {}
    found = []
    means = tops.mean_activation
    for latent in rank_latents(tops, min_active=0)[:latents].tolist():
        images = []
        for image_id, value in zip(tops.image_ids[latent].tolist(), tops.values[latent].tolist(), strict=True):
            if image_id < 0:
                break
            label = known.get(image_id, -1)
            images.append(
                {
                    "image_id": image_id,
                    "file": names.get(image_id),
                    "activation": value,
                    "label": label if label >= 0 else None,
                    "class_name": class_names[label] if 0 <= label < len(class_names) else None,
                }
            )
        found.append(
            {
                "latent": latent,
                "active": int(tops.counts[latent]),
                "mean_activation": float(means[latent]),
                "images": images,
            }
        )
    return found


def write_top_list(path: str | os.PathLike[str], listed: Sequence[Mapping[str, Any]]) -> tuple[Path, Path]:
    """Write what `top_list` returned as ``NAME.csv`` and ``NAME.json``; `path` may have any ending."""
    rows = [
        [
            each["latent"],
            place,
            image["image_id"],
            image["file"],
            image["activation"],
            image["label"],
            image["class_name"],
        ]
        for each in listed
        for place, image in enumerate(each["images"], start=1)
    ]
    csv, json = Path(path).with_suffix(".csv"), Path(path).with_suffix(".json")
    write_csv(csv, COLUMNS, rows)
    atomic_write_json(json, list(listed))
    return csv, json

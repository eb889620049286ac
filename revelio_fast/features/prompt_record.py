"""The list of each image's prompt, as a CSV file beside the stores that were made with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from revelio_fast.csv_text import read_csv, write_csv
from revelio_fast.data import ImageSource, SourceError
from revelio_fast.models.prompts import Fixed, Prompts


def record_name(prompts: Prompts) -> str | None:
    """The file in an extraction's folder that holds each image's prompt; None for one text that all share."""
    if isinstance(prompts, Fixed):
        return None
    digest = hashlib.sha256(json.dumps(prompts.about(), sort_keys=True).encode()).hexdigest()
    return f"prompts-{digest[:8]}.csv"


def record(path: Path, texts: Mapping[int, str], source: ImageSource) -> None:
    """Write each image's prompt beside the stores, ``image_id,path,prompt``, sorted by path; adds to what is there.

    Raises
    ------
    SourceError
        If an image had another prompt when the extraction was begun.
    """
    known = {int(row["image_id"]): (row["path"], row["prompt"]) for row in read_csv(path)}
    for image_id, text in texts.items():
        if image_id in known and known[image_id][1] != text:
            raise SourceError(
                f"The prompt of {known[image_id][0]} was {known[image_id][1]!r} when the features in {path.parent} "
                f"were begun ({path.name}), now {text!r}: choose another folder, or delete this one."
            )
        known[image_id] = (source.item(image_id).path, text)
    ordered = sorted(known, key=lambda each: known[each])
    write_csv(path, ["image_id", "path", "prompt"], [[image_id, *known[image_id]] for image_id in ordered])

"""What a saved classifier remembers of its features, and the extractor made from it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from revelio_fast.assets import mini_sd_path
from revelio_fast.features import ExtractConfig, FeatureExtractor
from revelio_fast.models import MINI_SD, ModelError
from revelio_fast.models.prompts import ClassTemplate, Column, FromClip, Prompts, as_prompts

OF_THE_IMAGES = ("source", "class_names", "skipped", "prompts", "crop")


def feature_record(metadata: dict[str, Any]) -> dict[str, Any]:
    """What maps depend on besides the images, from a store's `metadata`; the packaged model goes by its name."""
    record = {name: value for name, value in metadata.items() if name not in OF_THE_IMAGES}
    if Path(str(record.get("model"))) == mini_sd_path():
        record["model"] = MINI_SD
    return record


def extractor_of(
    record: dict[str, Any], prompt: str | Prompts | None = None, device: torch.device | str | None = None
) -> FeatureExtractor:
    """The extractor that gives the features a classifier was trained on.

    Parameters
    ----------
    record : dict
        Of `feature_record`.
    prompt : str or Prompts, optional
        Instead of the prompts of the training; needed where those came from a file.
    device : optional
        ``"cuda"`` if there is one, else ``"cpu"``.

    Raises
    ------
    ModelError
        If the model is not there any more, or the record lacks something.
    """
    try:
        config = ExtractConfig.from_metadata(record)
        prompts = as_prompts(_prompts(record["prompt"]) if prompt is None else prompt)
        return FeatureExtractor.from_config(config, prompts, device=device)
    except KeyError as error:
        raise ModelError(f"The classifier does not say which {error} its features have: train it again.") from None
    except ModelError as error:
        raise ModelError(
            f"The classifier reads features of {record.get('model')}, and that model cannot be used: {error} "
            "If it lies elsewhere now, name it with model=..."
        ) from error


def _prompts(about: str | dict[str, Any]) -> str | Prompts:
    """The prompts that describe themselves by `about`."""
    if isinstance(about, str):
        return about
    mode = about.get("mode")
    if mode == "column":
        return Column(about["column"])
    if mode == "from_clip":
        return FromClip(about["model"], about["templates"], about["prompt"], revision=about["revision"])
    if mode == "true class":
        return ClassTemplate(about["template"])
    raise ValueError(
        f"The classifier was trained with prompts of the kind {mode!r} ({about}): give those of the new images, "
        "prompt=... (--prompt-file)"
    )

"""Zero-shot classes by a CLIP model of transformers: each image's likeliest class, kept in a CSV file as it comes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_write_bytes
from revelio_fast.csv_text import csv_text, read_csv
from revelio_fast.data import PAPER_DATASETS, BrokenImageError, ImageItem, ImageSource, SourceError
from revelio_fast.data.paper_datasets import PHOTO_TEMPLATES
from revelio_fast.data.prefetch import decoded_groups
from revelio_fast.data.preprocess import ModelInput, to_rgb
from revelio_fast.models.families import read_config
from revelio_fast.models.spec import ModelError

COLUMNS = ("image_id", "content", "path", "label", "class_name", "prompt", "confidence")


class Prediction(NamedTuple):
    """The likeliest class of an image and its probability among all classes, to six places."""

    label: int
    confidence: float


Found = tuple[ImageItem, bytes, Prediction]


@dataclass(frozen=True)
class ZeroShot:
    """What CLIP made of a source.

    Attributes
    ----------
    predictions : dict
        ``{image_id: Prediction}``; images that could not be read are missing.
    class_names : list of str
        ``class_names[label]``, as they stand in the sentences.
    accuracy : float or None
        Share of the labelled images whose class is predicted; None without labels.
    labelled : int
        Images that this share is of.
    """

    predictions: dict[int, Prediction]
    class_names: list[str]
    accuracy: float | None
    labelled: int


def readable(name: str) -> str:
    """A class name as a sentence has it: the first of several synonyms, spaces for underscores."""
    return name.split(",")[0].replace("_", " ").strip()


def in_sentence(template: str, name: str) -> str:
    """`template` with the class name in place of ``{}`` or ``{class}``.

    Raises
    ------
    SourceError
        If the template has no such place.
    """
    if "{}" not in template and "{class}" not in template:
        raise SourceError(f"The sentence {template!r} has no place for the class: write {{}} where its name goes.")
    return template.replace("{class}", name).replace("{}", name)


def default_templates(source: ImageSource) -> tuple[str, ...]:
    """The sentences of a data set of the paper, those of any photo otherwise."""
    return PAPER_DATASETS[source.dataset].templates if source.dataset else PHOTO_TEMPLATES


def zero_shot(
    source: ImageSource,
    model: str | os.PathLike[str],
    *,
    templates: Sequence[str] | None = None,
    prompt: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    on_error: str = "stop",
    progress: bool = True,
) -> ZeroShot:
    """Predict each image's class among the source's class names.

    A class is the mean of the unit embeddings of its sentences, made unit again; the probability is the softmax of
    the scaled cosines with the image's embedding (Radford et al., ICML 2021, sections 2.3 and 3.1.4).

    Parameters
    ----------
    source : ImageSource
        With class names; labels are used for the accuracy only.
    model : str or path
        A CLIP model: a folder as ``save_pretrained`` writes it, or a Hub id.
    templates : sequence of str, optional
        Sentences with ``{}`` for the class; those of the data set by default.
    prompt : str, optional
        The sentence that the CSV file shows for each image; the first of `templates` by default.
    cache_dir : path, optional
        Predictions are appended to ``clip-<key>.csv`` there after every batch, and images listed there (same name,
        same content) are not computed again. The key is of the model, the class names and the sentences.
    on_error : {"stop", "skip"}
        A broken image raises BrokenImageError, or is left out.

    Raises
    ------
    SourceError
        If the source has no class names, or a template no place for them.
    ModelError
        If the model cannot be loaded or is no CLIP model.
    """
    if not source.class_names:
        raise SourceError(f"{source.name} has no class names for CLIP to choose from.")
    names = [readable(name) for name in source.class_names]
    chosen = tuple(templates or default_templates(source))
    sentences = [[in_sentence(template, name) for template in chosen] for name in names]
    shown = [in_sentence(prompt or chosen[0], name) for name in names]
    cache: Path | None = None
    found: dict[int, Prediction] = {}
    if cache_dir is not None:
        cache = Path(cache_dir) / f"clip-{_key(model, revision, sentences, shown)}.csv"
        found = _cached(cache, source)
    if any(image_id not in found for image_id in source.image_ids):
        clip = _Clip(os.fspath(model), revision, device)
        for batch in clip.predict(source, sentences, batch_size, found, on_error == "skip", progress):
            found |= {item.image_id: prediction for item, _, prediction in batch}
            if cache is not None:
                _append(cache, batch, names, shown)
    labels = {image_id: label for image_id, label in source.labels.items() if label >= 0 and image_id in found}
    right = sum(found[image_id].label == label for image_id, label in labels.items())
    return ZeroShot(
        {image_id: found[image_id] for image_id in source.image_ids if image_id in found},
        names,
        right / len(labels) if labels else None,
        len(labels),
    )


class _Clip:
    """A CLIP model with its tokenizer and its preprocessing, in float32."""

    def __init__(self, model: str, revision: str | None, device: torch.device | str | None):
        kind = read_config(model, "config.json", revision).get("model_type")
        if kind != "clip":
            raise ModelError(f"{model} is of type {kind!r}: give a CLIP model such as openai/clip-vit-large-patch14.")
        try:
            from transformers import AutoTokenizer, CLIPModel
        except ImportError as error:
            raise ModelError("CLIP needs more packages: pip install 'revelio-fast[models]'.") from error
        options: dict[str, Any] = {"revision": revision} if revision else {}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, **options)
            self._processor = _image_processor().from_pretrained(model, **options)
            network: Any = CLIPModel.from_pretrained(model, dtype=torch.float32, use_safetensors=True, **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(
                f"The CLIP model {model} cannot be loaded ({type(error).__name__}: {error}). Weights must be "
                "safetensors: no pickled checkpoint is opened."
            ) from error
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network = network.eval().to(self._device)
        self._size = int(network.config.vision_config.image_size)

    def _preprocess(self, image: Any) -> ModelInput:
        return ModelInput(self._processor(images=to_rgb(image), return_tensors="np")["pixel_values"][0], b"")

    def _classes(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Unit embeddings ``[classes, width]``."""
        rows = []
        for each in sentences:
            tokens = self._tokenizer(list(each), padding=True, truncation=True, return_tensors="pt").to(self._device)
            text = self._network.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            rows.append(_unit(_unit(self._network.text_projection(text.pooler_output)).mean(0)))
        return torch.stack(rows)

    @torch.no_grad()
    def predict(
        self,
        source: ImageSource,
        sentences: Sequence[Sequence[str]],
        batch_size: int,
        known: dict[int, Prediction],
        skip: bool,
        progress: bool,
    ) -> Iterator[list[Found]]:
        """Images that are not in `known`, their contents and predictions, batch by batch."""
        from revelio_fast.progress import tqdm

        classes = self._classes(sentences)
        scale = self._network.logit_scale.exp()
        groups = decoded_groups(source, batch_size, self._size, self._preprocess, frozenset(known))
        with tqdm(total=len(source), unit="image", desc="CLIP", disable=not progress) as bar:
            for group in groups:
                if group.broken and not skip:
                    raise group.broken[0]
                if group.rows:
                    seen = self._network.vision_model(pixel_values=group.pixels.to(self._device)).pooler_output
                    images = _unit(self._network.visual_projection(seen))
                    best = (scale * images @ classes.T).softmax(1).max(1)
                    predictions = [
                        Prediction(int(best.indices[row]), round(float(best.values[row]), 6)) for row in group.rows
                    ]
                    yield list(zip(group.items, group.contents, predictions, strict=True))
                bar.update(group.size)


def _image_processor() -> Any:
    """The one of CLIP's image processors that uses PIL and numpy only, as a thread that decodes must."""
    import transformers

    # Since transformers 5 the plain name stands for one that uses torchvision.
    return getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def _key(
    model: str | os.PathLike[str],
    revision: str | None,
    sentences: Sequence[Sequence[str]],
    shown: Sequence[str],
) -> str:
    folder = Path(model).expanduser()
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([os.fspath(model), revision, stamps, sentences, shown])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _cached(path: Path, source: ImageSource) -> dict[int, Prediction]:
    """Predictions of an earlier run for images that are still the same; a line that a kill cut off is removed."""
    if not path.is_file():
        return {}
    lines = path.read_bytes().splitlines(keepends=True)
    whole = b"".join(line for line in lines if line.endswith(b"\n"))
    if len(whole) < path.stat().st_size:
        atomic_write_bytes(path, whole)
    known = {int(row["image_id"]): row for row in read_csv(path)}
    return {
        item.image_id: Prediction(int(row["label"]), float(row["confidence"]))
        for item in source
        if (row := known.get(item.image_id)) is not None and _unchanged(item, row["content"])
    }


def _unchanged(item: ImageItem, content: str) -> bool:
    try:
        return item.content.hex() == content
    except BrokenImageError:
        return False


def _append(path: Path, batch: Sequence[Found], names: Sequence[str], shown: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence[Any]] = [] if path.is_file() else [COLUMNS]
    for item, content, (label, confidence) in batch:
        rows.append([item.image_id, content.hex(), item.path, label, names[label], shown[label], confidence])
    with path.open("ab") as file:
        file.write(csv_text(rows).encode())

"""A trained classifier applied to new images: `load_classifier` and what it returns."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from revelio_fast.classifiers.feature_record import extractor_of
from revelio_fast.classifiers.map_classifier import MapClassifier, Prediction
from revelio_fast.classifiers.predictions import Classified, PredictionLog, matched_labels
from revelio_fast.data import ImageSource, open_source
from revelio_fast.features import FeatureExtractor
from revelio_fast.models.prompts import Prompts
from revelio_fast.progress import tqdm

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageClassifier:
    """A diffusion model up to one layer, and the classifier trained on its maps; made by `load_classifier`.

    Attributes
    ----------
    extractor : FeatureExtractor
    model : MapClassifier
    class_names : list of str
    """

    def __init__(self, extractor: FeatureExtractor, model: MapClassifier) -> None:
        self.extractor = extractor
        self.model = model
        self.class_names = model.class_names or [str(number) for number in range(model.n_classes)]
        (self._key,) = extractor.keys

    def predict(
        self,
        images: Sequence[Image] | Tensor,
        *,
        prompts: Sequence[str] | None = None,
    ) -> Prediction:
        """Classes and probabilities of some images, in one batch.

        Parameters
        ----------
        images : sequence of PIL images, or Tensor
            A tensor is ``[B, 3, image_size, image_size]`` in [-1, 1].
        prompts : sequence of str, optional
            One an image, where the training's were not one text for all.
        """
        return self.model.predict(self.extractor.extract(images, pool=False, prompts=prompts)[self._key])

    def classify(
        self,
        source: ImageSource | str | os.PathLike[str],
        out: str | os.PathLike[str] | None = None,
        *,
        top: int = 5,
        batch_size: int = 8,
        on_error: str = "stop",
        progress: bool = True,
        workers: int | None = None,
    ) -> Classified:
        """Classify a whole source.

        Parameters
        ----------
        source : ImageSource, str or path
            Anything `open_source` takes.
        out : path, optional
            A CSV file for the predictions, written as they come: a second call continues; see `PredictionLog`.
        top : int
            Leading classes in a line of it.
        batch_size : int
            Images of a forward pass.
        on_error : {"stop", "skip"}
            What a broken image does.
        progress : bool
            Show a progress bar.
        workers : int, optional
            Threads that decode images; see `FeatureExtractor.stream`.

        Raises
        ------
        ValueError
            If `out` holds predictions of another classifier.
        BrokenImageError
            With ``on_error="stop"``; what was done is kept.
        """
        source = open_source(source)
        labels, note = matched_labels(source, self.class_names)
        if note:
            warnings.warn(note, stacklevel=2)
        record = self.model.features or {}
        # With the classifier's classes, so that prompts around a class are those of the training.
        source = source.labelled(labels, self.class_names, record.get("dataset"))
        settings = {
            "classifier": _fingerprint(self.model),
            "features": record,
            "prompt": self.extractor.prompts.about(),
            "batch_size": batch_size,
            "source": source.name,
        }
        log = PredictionLog(out, source, labels, settings, self.class_names, "probability", top)
        started, timed = time.perf_counter(), 0
        prompts = self.extractor.prompts.texts(source, on_error=on_error, progress=progress)
        batches = self.extractor.stream(
            source, batch_size=batch_size, pool=False, on_error=on_error, progress=False, skip_ids=log.done,
            prompts=prompts, workers=workers,
        )  # fmt: skip
        with tqdm(total=len(source), initial=len(log.done), unit="image", desc="classify", disable=not progress) as bar:
            for batch in batches:
                probabilities = self.model.predict(batch.features[self._key]).probabilities
                leading = probabilities.sort(dim=1, descending=True, stable=True)
                for row, image_id in enumerate(batch.image_ids.tolist()):
                    content = bytes(batch.contents[row].tolist())
                    ranking, scores = leading.indices[row].tolist(), leading.values[row].tolist()
                    log.append(source.item(image_id), content, ranking, scores)
                timed += len(batch.image_ids)
                bar.update(len(batch.image_ids))
        return log.finish(time.perf_counter() - started, timed)


def load_classifier(
    path: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    prompt: str | Prompts | None = None,
    device: torch.device | str | None = None,
) -> ImageClassifier:
    """Load a classifier that `train_diffc` saved, with the diffusion model whose features it reads.

    Parameters
    ----------
    path : path
        The folder ``model`` that training wrote, or the folder it lies in.
    model : str or path, optional
        The diffusion model, where it is not under the name it had in training.
    prompt : str or Prompts, optional
        Instead of the training's; needed where those came from a file.
    device : optional
        ``"cuda"`` if there is one, else ``"cpu"``.

    Raises
    ------
    ValueError
        If there is no classifier, or it does not say which features it reads.
    ModelError
        If the diffusion model is missing.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"There is no classifier at {folder}: give the output folder of train-diffc")
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    classifier = MapClassifier.from_pretrained(folder)
    if not classifier.features:
        raise ValueError(
            f"The classifier {folder} does not say which features it reads: it was trained on bare tensors. "
            "Pass features=... to train_diffc, or train it with the command train-diffc"
        )
    record = classifier.features if model is None else {**classifier.features, "model": os.fspath(model)}
    extractor = extractor_of(record, prompt, device)
    channels = extractor.layer_shapes()[extractor.layers[0]][0]
    if channels != classifier.in_channels:
        raise ValueError(
            f"{extractor.layers[0]} of {record['model']} has {channels} channels, the classifier {folder} reads "
            f"{classifier.in_channels}: it was trained on another model"
        )
    return ImageClassifier(extractor, classifier.to(extractor.device))


def _fingerprint(model: MapClassifier) -> str:
    """A digest of the weights."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

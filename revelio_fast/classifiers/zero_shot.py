"""Diffusion Classifier: the class whose prompt helps most to denoise an image, hopeless classes dropped early."""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from revelio_fast.classifiers.predictions import Classified, PredictionLog, matched_labels
from revelio_fast.data import ImageSource, open_source
from revelio_fast.data.identity import pixel_digests
from revelio_fast.data.prefetch import decoded_groups
from revelio_fast.data.preprocess import model_input
from revelio_fast.features import FeatureExtractor
from revelio_fast.features.fixed_shape import FixedShapeForward
from revelio_fast.features.noise import image_noise
from revelio_fast.models import OUTPUT
from revelio_fast.models.clip_prompts import in_sentence, readable
from revelio_fast.models.embedded_prompts import EmbeddedPrompts
from revelio_fast.progress import tqdm

LOSSES = ("l2", "l1")


@dataclass(frozen=True)
class Pruning:
    """Stages of elimination: after ``samples[i]`` (noise, timestep) pairs a class, the ``keep[i]`` best classes go on.

    The defaults are those of the authors for Oxford-IIIT Pet: 25 pairs for all classes, 250 for the best five.
    """

    samples: tuple[int, ...] = (25, 250)
    keep: tuple[int, ...] = (5, 1)

    def __post_init__(self) -> None:
        if not self.samples or len(self.samples) != len(self.keep):
            raise ValueError(f"samples {self.samples} and keep {self.keep} need one number for each stage")
        if self.samples[0] < 1 or any(a >= b for a, b in zip(self.samples, self.samples[1:], strict=False)):
            raise ValueError(f"samples is {self.samples}: the pairs of each stage in all, rising from at least 1")
        if self.keep[-1] != 1 or any(a <= b for a, b in zip(self.keep, self.keep[1:], strict=False)):
            raise ValueError(f"keep is {self.keep}: the classes left after each stage, falling to 1")

    def stages(self) -> list[list[int]]:
        """Which of the ``samples[-1]`` evenly spaced timesteps each stage adds, itself evenly spread over the rest."""
        left = list(range(self.samples[-1]))
        found, before = [], 0
        for total in self.samples:
            count = total - before
            chosen = [left[(2 * j + 1) * len(left) // (2 * count)] for j in range(count)]
            left = sorted(set(left) - set(chosen))
            found.append(chosen)
            before = total
        return found


class DenoisingErrors(NamedTuple):
    """What an image's classes were judged by."""

    ranking: list[int]
    """Classes, best first: later stages before earlier ones, then by error."""
    errors: Tensor
    """float64 ``[classes]``: mean error of the predicted noise over a class's pairs."""
    samples: Tensor
    """int64 ``[classes]``: pairs the class was given."""


class ZeroShotClassifier:
    """Classifies images without training: by the error of the noise that the model predicts under each class prompt.

    All classes of an image see the same noise at the same timesteps, drawn from (seed, pixels, timestep). On one
    machine, for one `batch_size`, an image's errors are the same to the last bit, whichever other images are read and
    whatever the image is called.

    Parameters
    ----------
    extractor : FeatureExtractor
        With the layer ``"output"``; its timesteps are not used.
    prompts : sequence of str
        One per class.
    class_names : sequence of str, optional
        The prompts by default.
    pruning : Pruning
    loss : {"l2", "l1"}
        Of the predicted noise; also of models that predict something else (v-prediction), where it is converted.
    batch_size : int
        (class, timestep) pairs of a forward pass.

    Notes
    -----
    Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023, Algorithm 1 and section 3.3.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        prompts: Sequence[str],
        class_names: Sequence[str] | None = None,
        *,
        pruning: Pruning | None = None,
        loss: str = "l2",
        batch_size: int = 16,
    ) -> None:
        self.extractor = extractor
        self.pruning = pruning or Pruning()
        self.prompts = list(prompts)
        self.class_names = list(class_names if class_names is not None else prompts)
        family = extractor.family
        if OUTPUT not in extractor.layers:
            raise ValueError(f"A zero-shot classifier needs the layer {OUTPUT!r}, got {list(extractor.layers)}")
        if len(self.prompts) < 2 or len(self.prompts) != len(self.class_names):
            raise ValueError(
                f"There are {len(self.prompts)} prompts for {len(self.class_names)} classes: give one for each of at "
                "least two"
            )
        if loss not in LOSSES:
            raise ValueError(f"loss is {loss!r}: allowed are {', '.join(LOSSES)}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
        if self.pruning.samples[-1] > family.num_timesteps:
            raise ValueError(
                f"samples is {self.pruning.samples}: there are only {family.num_timesteps} timesteps to take them at"
            )
        self._loss = loss
        self._batch_size = batch_size
        # Each text embedded alone: a class's row does not depend on which other classes there are.
        self._conditioning = EmbeddedPrompts(family, len(self.prompts)).rows(self.prompts)
        self._forward = FixedShapeForward(family.forward, extractor.device)
        count = self.pruning.samples[-1]
        self._timesteps = [(2 * i + 1) * family.num_timesteps // (2 * count) for i in range(count)]
        self._seed = int(extractor.metadata()["seed"])

    def errors(self, pixels: Tensor) -> DenoisingErrors:
        """Judge one image ``[3, S, S]`` in [-1, 1]."""
        digests = pixel_digests(pixels[None])
        latents = self.extractor.family.encode(pixels[None])
        classes = list(range(len(self.prompts)))
        total = torch.zeros(len(classes), dtype=torch.float64)
        samples = torch.zeros(len(classes), dtype=torch.int64)
        dropped: list[int] = []
        for chosen, keep in zip(self.pruning.stages(), self.pruning.keep, strict=True):
            timesteps = [self._timesteps[index] for index in chosen]
            total[classes] += self._stage(latents, digests, timesteps, classes)
            samples[classes] += len(timesteps)
            ranked = sorted(classes, key=lambda c: (float(total[c]), c))
            dropped = ranked[keep:] + dropped
            classes = sorted(ranked[:keep])
            if len(classes) == 1:
                break
        return DenoisingErrors(classes + dropped, total / samples, samples)

    def _stage(self, latents: Tensor, digests: list[bytes], timesteps: list[int], classes: list[int]) -> Tensor:
        """Summed errors float64 ``[len(classes)]`` over some timesteps; the classes of a timestep follow each other."""
        family = self.extractor.family
        device = latents.device
        noise = torch.cat([image_noise(self._seed, digests, t, 0, latents.shape[1:]) for t in timesteps]).to(device)
        steps = torch.tensor(timesteps, device=device)
        clean = latents.expand(len(timesteps), -1, -1, -1)
        noisy, target = family.add_noise(clean, noise, steps), family.target(clean, noise, steps)
        rows = len(timesteps) * len(classes)
        # Every forward has the full batch shape: the last row is repeated where pairs run out.
        pairs = torch.arange(-(-rows // self._batch_size) * self._batch_size, device=device).clamp(max=rows - 1)
        at, who = pairs // len(classes), torch.tensor(classes, device=device)[pairs % len(classes)]
        found = []
        for part in range(0, len(pairs), self._batch_size):
            place, of = at[part : part + self._batch_size], who[part : part + self._batch_size]
            conditioning = {name: value[of] for name, value in self._conditioning.items()}
            output = self._forward(noisy[place], steps[place], conditioning)[OUTPUT]
            difference = (output.float() - target[place]) * self._to_noise(steps[place])[:, None, None, None]
            error = difference.square() if self._loss == "l2" else difference.abs()
            found.append(error.mean((1, 2, 3)))
        return torch.cat(found)[:rows].double().cpu().view(len(timesteps), len(classes)).sum(0)

    def _to_noise(self, timesteps: Tensor) -> Tensor:
        """What turns an error of the network's output into one of the noise: both are linear in each other."""
        family = self.extractor.family
        kept = family.alphas_cumprod.to(timesteps.device)[timesteps].float()
        if family.prediction == "epsilon":
            return torch.ones_like(kept)
        if family.prediction == "v_prediction":
            return kept.sqrt()
        if family.prediction == "sample":
            return (kept / (1 - kept)).sqrt()
        if family.prediction == "flow":
            return 1 - timesteps.float() / family.num_timesteps
        raise ValueError(f"The model predicts {family.prediction!r}: how that relates to the noise is not known here")

    def classify(
        self,
        source: ImageSource | str | os.PathLike[str],
        out: str | os.PathLike[str] | None = None,
        *,
        top: int = 5,
        on_error: str = "stop",
        progress: bool = True,
        workers: int | None = None,
    ) -> Classified:
        """Classify a whole source; parameters, files and errors as in `ImageClassifier.classify`."""
        source = open_source(source)
        labels, note = matched_labels(source, self.class_names)
        if note:
            warnings.warn(note, stacklevel=2)
        about = {name: value for name, value in self.extractor.metadata().items() if name != "prompt"}
        settings = {
            **about,
            "prompts": self.prompts,
            "samples": self.pruning.samples,
            "keep": self.pruning.keep,
            "loss": self._loss,
            "batch_size": self._batch_size,
            "source": source.name,
        }
        log = PredictionLog(out, source, labels, settings, self.class_names, "error", top)
        started, timed, right, known = time.perf_counter(), 0, 0, 0
        size = self.extractor.image_size
        groups = decoded_groups(source, 1, size, functools.partial(model_input, size=size), log.done, workers)
        with tqdm(total=len(source), unit="image", desc="zero-shot", disable=not progress) as bar:
            for group in groups:
                if group.broken and on_error != "skip":
                    raise group.broken[0]
                for item, content in zip(group.items, group.contents, strict=True):
                    found = self.errors(group.pixels[0])
                    label = labels[item.image_id]
                    log.append(item, content, found.ranking, found.errors[found.ranking].tolist())
                    timed += 1
                    known += label >= 0
                    right += label == found.ranking[0]
                bar.update()
                if known:
                    bar.set_postfix(accuracy=f"{right / known:.1%}")
        return log.finish(time.perf_counter() - started, timed)


def class_prompts(class_names: Sequence[str], template: str) -> list[str]:
    """``"a photo of a {}"`` filled with each class name, underscores read as spaces.

    Raises
    ------
    SourceError
        If the template has no ``{}``.
    """
    return [in_sentence(template, readable(name)) for name in class_names]

"""What was measured: one record for each set of features and each classifier, and the summary that holds them all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from revelio_fast.concepts import ProbeResult, PurityResult, TopActivations
from revelio_fast.records import Record
from revelio_fast.statistics import Interval, averaged_interval

if TYPE_CHECKING:
    from PIL.Image import Image

LoadImage = Callable[[int], "Image"]
"""Gives the picture of an image id, for contact sheets."""

MODEL = "model"
DIFFC = "Diff-C"
HIDDEN: Mapping[str, bool] = {"json": False}


@dataclass
class _Placed(Record):
    """What figures were measured on.

    Attributes
    ----------
    name : str
        ``"model"``, or the baseline: ``"raw pixels"``, ``"VAE latents"``, ``"random weights"`` ...
    layer, timestep : optional
        ``"up_ft1"``, 25; None for raw pixels and VAE latents, which stand beside all.
    seed : int
        Of the training that the figures come from.
    detail : str
        What the reader must know of the features: ``"32 x 32 px"``.
    """

    name: str = MODEL
    layer: str | None = None
    timestep: int | None = None
    seed: int = 0
    detail: str = ""

    @property
    def place(self) -> tuple[str, str | None, int | None]:
        """What results of other seeds share."""
        return self.name, self.layer, self.timestep

    @property
    def features(self) -> str:
        """``"model"``, ``"raw pixels (32 x 32 px)"``."""
        return f"{self.name} ({self.detail})" if self.detail else self.name

    @property
    def where(self) -> str:
        """``"up_ft1 t=25"``, empty where there is no layer."""
        return f"{self.layer} t={self.timestep}" if self.layer is not None else ""

    @property
    def title(self) -> str:
        """``"up_ft1 t=25"`` of the model, ``"random weights up_ft1 t=25"`` of a baseline."""
        return self.where if self.name == MODEL else f"{self.features} {self.where}".strip()

    def stands_beside(self, other: _Placed) -> bool:
        """Whether this baseline is compared with `other`: it has no layer, or the same layer and timestep."""
        return self.layer is None or (self.layer, self.timestep) == (other.layer, other.timestep)


@dataclass
class FeatureResult(_Placed):
    """The figures of one set of features, the model's or a baseline's; what was not measured is left out.

    Attributes
    ----------
    d, n_images : int
        Width of a feature, and images the k-SAE learned from.
    n_latents, k : int
        Of the k-SAE; 0 without one.
    sae : path, optional
        Folder of the k-SAE.
    metrics : dict of str to float
        Final figures of its training: ``fvu``, ``holdout_fvu``, ``l0``, ``dead``.
    purity : PurityResult, optional
        Of as many top latents as the settings ask for and the k-SAE has.
    purity_at_common : PurityResult, optional
        Of the number of latents that all compared results have.
    probe : ProbeResult, optional
        Of the linear probe.
    other_probes : list of ProbeResult
        Nearest centroid, nearest neighbours.
    history : dict of str to list of float
        Training curves by column (`KSAEResult.history`); lies beside the k-SAE, not in the JSON.
    tops : TopActivations, optional
        For contact sheets and the density of latents; not in the JSON.
    seconds : dict of str to float
        Wall time by phase.
    notes : list of str
        What could not be measured, and why.
    """

    d: int = 0
    n_images: int = 0
    n_latents: int = 0
    k: int = 0
    sae: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    purity: PurityResult | None = None
    purity_at_common: PurityResult | None = None
    probe: ProbeResult | None = None
    other_probes: list[ProbeResult] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict, metadata=HIDDEN)
    tops: TopActivations | None = field(default=None, metadata=HIDDEN)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def compared_purity(self) -> PurityResult | None:
        """The purity that is set beside others'."""
        return self.purity_at_common or self.purity


@dataclass
class ClassifierResult(_Placed):
    """One trained classifier of feature maps.

    Attributes
    ----------
    head : str
        Which network: ``"Diff-C"``, or the paper's baseline ``"SD features"``.
    accuracy : float
        On the test images, between 0 and 1, after the last epoch.
    interval : (float, float)
        95 % Wilson interval of it.
    chance : float
        Accuracy of always naming the commonest training class.
    correct, images : str
        As in `ProbeResult`: which test images were right, and a digest of the images' ids.
    per_class_accuracy : list of dict
        ``class``, ``images`` and ``accuracy`` of each class.
    """

    head: str = DIFFC
    accuracy: float = float("nan")
    interval: Interval = (0.0, 1.0)
    chance: float = float("nan")
    n_train: int = 0
    n_test: int = 0
    n_classes: int = 0
    parameters: int = 0
    epochs: int = 0
    correct: str = ""
    images: str = ""
    per_class_accuracy: list[dict[str, Any]] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict, metadata=HIDDEN)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class RunSummary(Record):
    """Everything one report says.

    Attributes
    ----------
    title, model, dataset, prompt : str
        As the reader should see them.
    n_images : int
        Images the latents were read with.
    class_names : list of str
        Name of each label; empty where the images have no labels.
    features : list of FeatureResult
        The model's layers and timesteps, then the baselines, for each seed.
    classifiers : list of ClassifierResult
        The model's, then the baselines', for each seed.
    notes : list of str
        Sentences to print near the top (skipped images, short runs).
    config : mapping
        The configuration of the run, as JSON values.
    versions : mapping of str to str
        Package and machine versions; `revelio_fast.report.versions()` gives the usual ones.
    seconds, seconds_now : mapping of str to float
        Wall time of the run's phases, and the part of it that was spent in this call and not taken from an earlier one
        (all of it where that is None).
    labels, file_names : mapping
        Label (-1: none) and file name of each image id, for contact sheets; not in the JSON.
    """

    title: str
    model: str
    dataset: str
    n_images: int
    prompt: str = ""
    class_names: list[str] = field(default_factory=list)
    features: list[FeatureResult] = field(default_factory=list)
    classifiers: list[ClassifierResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    seconds_now: dict[str, float] | None = None
    labels: Mapping[int, int] = field(default_factory=dict, metadata=HIDDEN)
    file_names: Mapping[int, str] = field(default_factory=dict, metadata=HIDDEN)

    @property
    def layers(self) -> list[FeatureResult]:
        """The model's results."""
        return [each for each in self.features if each.name == MODEL]

    @property
    def layer_names(self) -> list[str]:
        """Layers of the model's results, in the order they were given."""
        return list(dict.fromkeys(each.layer for each in self.layers if each.layer is not None))

    @property
    def timesteps(self) -> list[int]:
        """Timesteps of the model's results, rising."""
        return sorted({each.timestep for each in self.layers if each.timestep is not None})

    @property
    def baselines(self) -> list[FeatureResult]:
        """The baselines' results."""
        return [each for each in self.features if each.name != MODEL]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the trainings, rising."""
        return sorted({each.seed for each in (*self.features, *self.classifiers)})

    @property
    def common_latents(self) -> int | None:
        """The number of latents that purity is compared at; None where there is no such number."""
        found = {each.purity_at_common.n_latents_used for each in self.features if each.purity_at_common}
        return found.pop() if len(found) == 1 else None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunSummary:
        """Read ``summary.json``; histories, top images, labels and file names stay out."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        values.pop("derived", None)
        return cls.from_dict(values)


T = TypeVar("T", bound=_Placed)


def by_place(results: Sequence[T]) -> list[list[T]]:
    """Results that differ in their seed only, together, in the order of their first."""
    groups: dict[Any, list[T]] = {}
    for each in results:
        groups.setdefault((each.place, getattr(each, "head", None)), []).append(each)
    return list(groups.values())


class Spread(NamedTuple):
    """A figure over seeds: its mean, the n - 1 deviation (None of one seed), and the 95 % interval of the mean."""

    mean: float
    deviation: float | None
    interval: Interval

    @classmethod
    def of(cls, values: Sequence[float], intervals: Sequence[Interval]) -> Spread:
        """Of one value and interval for each seed."""
        mean, deviation, interval = averaged_interval(values, intervals)
        return cls(mean, deviation, interval)


def accuracy_of(group: Sequence[ProbeResult | ClassifierResult]) -> Spread:
    """Accuracy over seeds."""
    return Spread.of([each.accuracy for each in group], [each.interval for each in group])


def purity_of(group: Sequence[FeatureResult], measure: str) -> Spread:
    """A measure of the compared purity over seeds; every member has one."""
    found = [each.compared_purity for each in group if each.compared_purity]
    return Spread.of([getattr(each, measure) for each in found], [each.interval[measure] for each in found])

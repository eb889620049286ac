"""What a report is made from: plain records that a pipeline fills and `write_report` lays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from revelio_fast.concepts import ProbeResult, PurityResult, TopActivations

LoadImage = Callable[[int], "Image"]
"""Gives the picture of an image id, for contact sheets."""


DIFFC = "Diff-C"

History = Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]]
"""A training history, by column or by row."""


@dataclass
class LayerRun:
    """One layer at one timestep: its features, its k-SAE and what was measured. Leave out what was not.

    Attributes
    ----------
    layer, timestep : str, int
        As in the extractor: ``"up_ft1"``, 25.
    d, n_latents, k, n_images : int
        Sizes of the k-SAE and of the data it was read with.
    purity : PurityResult, optional
        From `label_purity`, on `tops`.
    probe : ProbeResult, optional
        From `linear_probe` on the pooled features of this layer and timestep.
    tops : TopActivations, optional
        For contact sheets and the histogram of latent density.
    history : History
        Training curves by column (`KSAEResult.history`); the columns ``step``, ``fvu``, ``holdout_fvu``, ``l0`` and
        ``dead`` are drawn, others ignored.
    metrics : mapping of str to float
        Final figures for the table: ``fvu``, ``holdout_fvu``, ``l0``, ``dead`` (number of latents).
    seconds : mapping of str to float
        Measured wall time by phase: ``extract``, ``train_sae``, ``top_images`` ...
    """

    layer: str
    timestep: int
    d: int
    n_latents: int
    k: int
    n_images: int
    purity: PurityResult | None = None
    probe: ProbeResult | None = None
    tops: TopActivations | None = None
    history: History = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Baseline:
    """The same measures on something else than the model's features.

    Attributes
    ----------
    name : str
        ``"raw pixels"``, ``"VAE latents"``, ``"random weights"`` or another that the reader understands.
    layer, timestep : optional
        The layer and timestep it stands beside; None where it has none (raw pixels) and stands beside all.
    purity, probe : optional
        As in `LayerRun`.
    """

    name: str
    layer: str | None = None
    timestep: int | None = None
    purity: PurityResult | None = None
    probe: ProbeResult | None = None


@dataclass
class DiffCRun:
    """One trained classifier of feature maps.

    Attributes
    ----------
    accuracy : float
        On the test images, between 0 and 1.
    interval : (float, float), optional
        95 % interval of `accuracy`; computed from `n_test` (Wilson) where left out.
    n_train, n_test, n_classes : int
        Images and classes.
    chance : float, optional
        Accuracy of always guessing the commonest class; 1 / n_classes where left out.
    baseline : str, optional
        None for the model itself; ``"random weights"`` ... for a baseline.
    head : str
        Which network on the maps: ``"Diff-C"``, or the paper's baseline ``"SD features"``.
    history : History
        Curves by column: ``epoch``, ``train_loss``, ``test_accuracy``.
    """

    layer: str
    timestep: int
    accuracy: float
    n_train: int
    n_test: int
    n_classes: int
    interval: tuple[float, float] | None = None
    chance: float | None = None
    baseline: str | None = None
    head: str = DIFFC
    parameters: int | None = None
    epochs: int | None = None
    history: History = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass
class RunSummary:
    """Everything one report says.

    Attributes
    ----------
    title, model, dataset, prompt : str
        As the reader should see them.
    n_images : int
        Images the latents were read with.
    class_names : sequence of str
        Name of each label; empty where the images have no labels.
    labels : mapping of int to int
        Label of each image id (-1: none), for contact sheets.
    layers : list of LayerRun
    baselines : list of Baseline
    diffc : list of DiffCRun
        The model's and the baselines' (with `DiffCRun.baseline` set).
    config : mapping
        The configuration of the run, as JSON values.
    versions : mapping of str to str
        Package and machine versions; `revelio_fast.report.versions()` gives the usual ones.
    seconds : mapping of str to float
        Wall time of the run's phases.
    notes : list of str
        Sentences to print near the top (skipped images, short runs).
    """

    title: str
    model: str
    dataset: str
    n_images: int
    prompt: str = ""
    class_names: Sequence[str] = ()
    labels: Mapping[int, int] = field(default_factory=dict)
    layers: list[LayerRun] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    diffc: list[DiffCRun] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

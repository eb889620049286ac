"""What is measured on one set of features, the model's or a baseline's: k-SAE, top images, purity, probe."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from revelio_fast.concepts import (
    ProbeResult,
    PurityResult,
    TopActivations,
    label_purity,
    linear_probe,
    top_images,
)
from revelio_fast.config import RunConfig
from revelio_fast.ksae import KSparseAutoencoder, train_ksae
from revelio_fast.pipeline.extraction import Key, store_of
from revelio_fast.pipeline.stages import Stage, Stages
from revelio_fast.store import ActivationStore

TOPS = "top_activations.safetensors"


@dataclass
class Measured:
    """The figures of one set of features; what was not measured is None."""

    name: str
    key: Key | None
    d: int
    n_images: int
    sae: Path | None = None
    n_latents: int = 0
    k: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    tops: TopActivations | None = None
    purity: PurityResult | None = None
    probe: ProbeResult | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """``"up_ft1, t = 25"``, or the baseline's name."""
        place = f"{self.key[0]}, t = {self.key[1]}" if self.key else ""
        return place if self.name == "model" else f"{self.name}{', ' if place else ''}{place}"


def measure(
    config: RunConfig,
    stages: Stages,
    halves: dict[str, Stage],
    name: str,
    key: Key | None,
    *,
    with_sae: bool = True,
    n_latents: int | None = None,
    progress: bool = True,
) -> Measured:
    """Run the stages k-SAE, top images, purity and linear probe on the features of one layer and timestep.

    Parameters
    ----------
    halves : dict of str to Stage
        The extraction's stages, ``"train"`` and, if there is anything to test on, ``"test"``.
    name : str
        ``"model"``, or which baseline.
    key : (layer, timestep), optional
        None for raw pixels and VAE latents.
    with_sae : bool
        False leaves the linear probe only.
    n_latents : int, optional
        Instead of the configured number of latents.
    """
    train = store_of(halves["train"], key)
    test = store_of(halves["test"], key) if "test" in halves else None
    place = f"{name.replace(' ', '-').lower()}{f'-{key[0]}-t{key[1]}' if key else ''}"
    found = Measured(name, key, train.d, train.rows)
    inputs = {"features": {half: stage.key for half, stage in halves.items()}, "key": list(key) if key else None}
    if with_sae:
        stage = _train(config, stages, inputs, place, train, test, found, n_latents, progress)
        tops = _top_images(config, stages, place, train, stage, found)
        _purity(config, stages, place, train, tops, found)
    if config.probe and test is not None:
        _probe(stages, inputs, place, train, test, found)
    return found


def _train(
    config: RunConfig,
    stages: Stages,
    inputs: dict[str, Any],
    place: str,
    train: ActivationStore,
    test: ActivationStore | None,
    found: Measured,
    n_latents: int | None,
    progress: bool,
) -> Stage:
    settings = config.sae
    if n_latents is not None:
        settings = replace(settings, n_latents=n_latents)

    def work(folder: Path) -> dict[str, Any]:
        result = train_ksae(train, settings, out_dir=folder, progress=progress, validation=test)
        kept = {name: value for name, value in result.metrics.items() if name != "seconds" and math.isfinite(value)}
        return {"metrics": kept}

    stage = stages.run(
        f"k-SAE: {found.title} ({train.rows} x {train.d})",
        f"ksae/{place}",
        {**inputs, "sae": settings.numbers()},
        work,
    )
    found.sae = stage.folder / "model"
    found.metrics = stage.output["metrics"]
    found.history = read_columns(stage.folder / "history.csv")
    found.k = settings.k
    found.seconds["train_sae"] = stage.seconds
    return stage


def _top_images(
    config: RunConfig, stages: Stages, place: str, train: ActivationStore, sae: Stage, found: Measured
) -> Stage:
    def work(folder: Path) -> dict[str, Any]:
        tops = top_images(KSparseAutoencoder.from_pretrained(sae.folder / "model"), train, config.purity.kept)
        tops.save(folder / TOPS)
        return {"n_latents": tops.n_latents}

    stage = stages.run(
        f"top images: {found.title}", f"tops/{place}", {"sae": sae.key, "kept": config.purity.kept}, work
    )
    found.tops = TopActivations.load(stage.folder / TOPS)
    found.n_latents = found.tops.n_latents
    found.seconds["top_images"] = stage.seconds
    return stage


def _purity(
    config: RunConfig, stages: Stages, place: str, train: ActivationStore, tops: Stage, found: Measured
) -> None:
    if not bool((train.labels >= 0).any()):
        return
    labels = dict(zip(train.image_ids.tolist(), train.labels.tolist(), strict=True))
    section = config.purity

    def work(folder: Path) -> dict[str, Any]:
        if found.tops is None:
            raise ValueError("there are no top images")
        try:
            result = label_purity(found.tops, labels, **section.arguments())
        except ValueError as error:
            return {"not_measured": str(error)}
        return {"purity": result.as_dict()}

    stage = stages.run(
        f"purity: {found.title}",
        f"purity/{place}",
        {"tops": tops.key, "purity": section.as_json()},
        work,
    )
    found.seconds["purity"] = stage.seconds
    if "purity" in stage.output:
        values = dict(stage.output["purity"])
        # JSON turned the numbers of latents into text and the intervals into lists.
        values["sigma_curve"] = {int(n): value for n, value in values["sigma_curve"].items()}
        for name in ("interval", "chance_interval"):
            values[name] = {measure: tuple(ends) for measure, ends in values[name].items()}
        found.purity = PurityResult(**values)
    else:
        found.notes.append(f"{found.title}: purity was not measured. {stage.output['not_measured']}")


def _probe(
    stages: Stages, inputs: dict[str, Any], place: str, train: ActivationStore, test: ActivationStore, found: Measured
) -> None:
    def work(folder: Path) -> dict[str, Any]:
        try:
            result = linear_probe(*_labelled(train), *_labelled(test))
        except ValueError as error:
            return {"not_measured": str(error)}
        return {"probe": result.as_dict()}

    stage = stages.run(f"linear probe: {found.title}", f"probe/{place}", inputs, work)
    found.seconds["probe"] = stage.seconds
    if "probe" in stage.output:
        values = dict(stage.output["probe"])
        values["interval"] = tuple(values["interval"])
        found.probe = ProbeResult(**values)
    else:
        found.notes.append(f"{found.title}: the linear probe was not run. {stage.output['not_measured']}")


def _labelled(store: ActivationStore) -> tuple[Tensor, Tensor]:
    known = store.labels >= 0
    return store.features()[known], store.labels[known]


def read_columns(path: Path, text: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The columns of a CSV file as numbers, NaN where a cell is empty or no number; columns in `text` as they are."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] if name in text else _number(row[name]) for row in rows] for name in (rows or [{}])[0]}


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")

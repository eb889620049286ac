"""What is measured on one set of features, the model's or a baseline's: k-SAE, top images, purity, probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from revelio_fast.concepts import (
    ProbeResult,
    PurityResult,
    TopActivations,
    centroid_probe,
    label_purity,
    linear_probe,
    neighbour_probe,
    top_images,
)
from revelio_fast.concepts.probe import FOLDS, GRID, NEIGHBOURS
from revelio_fast.config import RunConfig
from revelio_fast.csv_text import read_numbers
from revelio_fast.ksae import KSparseAutoencoder, train_ksae
from revelio_fast.pipeline.extraction import MODEL, Key, store_of
from revelio_fast.pipeline.stages import Stage, Stages
from revelio_fast.report import FeatureResult

TOPS = "top_activations.safetensors"


class Measurement:
    """The stages on the features of one layer and timestep, and the record that they fill.

    Parameters
    ----------
    config : RunConfig
        Its seed is that of the trainings.
    stages : Stages
    halves : dict of str to Stage
        The extraction's stages, ``"train"`` and, if there is anything to test on, ``"test"``.
    name : str
        ``"model"``, or which baseline.
    key : (layer, timestep), optional
        None for raw pixels and VAE latents.
    detail : str
        What the reader must know of the features.
    progress : bool
        Show progress bars.

    Attributes
    ----------
    result : FeatureResult
    """

    def __init__(
        self,
        config: RunConfig,
        stages: Stages,
        halves: dict[str, Stage],
        name: str,
        key: Key | None,
        *,
        detail: str = "",
        progress: bool = True,
    ) -> None:
        self._config, self._stages, self._progress = config, stages, progress
        self._train = store_of(halves["train"], key)
        self._test = store_of(halves["test"], key) if "test" in halves else None
        self._place = f"{name.replace(' ', '-').lower()}{f'-{key[0]}-t{key[1]}' if key else ''}"
        self._inputs = {
            "features": {half: stage.key for half, stage in halves.items()},
            "key": list(key) if key else None,
        }
        self._tops_key = ""
        layer, timestep = key or (None, None)
        self.result = FeatureResult(
            name, layer, timestep, config.seed, detail, d=self._train.d, n_images=self._train.rows
        )
        self._title = f"{layer}, t = {timestep}" if layer is not None else ""
        if name != MODEL:
            self._title = ", ".join(part for part in (name, self._title) if part)

    def train_sae(self, n_latents: int | None = None) -> None:
        """Train a k-SAE, with so many latents instead of the configured number, and find its top images."""
        settings = self._config.sae
        if n_latents is not None:
            settings = replace(settings, n_latents=n_latents)

        def train(folder: Path) -> dict[str, Any]:
            trained = train_ksae(self._train, settings, out_dir=folder, progress=self._progress, validation=self._test)
            known = {name: value for name, value in trained.metrics.items() if math.isfinite(value)}
            known.pop("seconds", None)
            return {"metrics": known, "notes": list(trained.notes.values())}

        result = self.result
        stage = self._run(
            f"k-SAE: {self._title} ({self._train.rows} x {self._train.d})",
            "ksae",
            {**self._inputs, "sae": settings.numbers()},
            train,
        )
        result.sae, result.k = stage.folder / "model", settings.k
        result.metrics, result.history = stage.output["metrics"], read_numbers(stage.folder / "history.csv")
        result.notes += [f"{result.title}: {note}." for note in stage.output["notes"]]
        result.seconds["train_sae"] = stage.seconds
        self._find_top_images(stage)

    def _find_top_images(self, sae: Stage) -> None:
        kept = self._config.purity.kept

        def find(folder: Path) -> dict[str, Any]:
            tops = top_images(KSparseAutoencoder.from_pretrained(sae.folder / "model"), self._train, kept)
            tops.save(folder / TOPS)
            return {"n_latents": tops.n_latents}

        stage = self._run(f"top images: {self._title}", "tops", {"sae": sae.key, "kept": kept}, find)
        self.result.tops = TopActivations.load(stage.folder / TOPS)
        self.result.n_latents = self.result.tops.n_latents
        self.result.seconds["top_images"] = stage.seconds
        self._tops_key = stage.key

    def measure_purity(self) -> None:
        """Purity of the top latents, as many as are asked for and as there are."""
        if not bool((self._train.labels >= 0).any()):
            return
        self.result.purity = self._purity(self._config.purity.top_latents)

    def measure_purity_at(self, common: int) -> None:
        """Purity of exactly so many top latents, for comparison with results that have no more."""
        own = self.result.purity
        if own is not None:
            self.result.purity_at_common = own if own.n_latents_used == common else self._purity(common)

    def _purity(self, top_latents: int) -> PurityResult | None:
        labels = dict(zip(self._train.image_ids.tolist(), self._train.labels.tolist(), strict=True))
        section, tops = self._config.purity, self.result.tops
        assert tops is not None

        def measure(folder: Path) -> dict[str, Any]:
            try:
                found = label_purity(tops, labels, **section.arguments() | {"top_latents": top_latents})
            except ValueError as error:
                return {"not_measured": str(error)}
            return {"purity": found.as_dict()}

        settings = section.as_json() | {"top_latents": top_latents}
        stage = self._run(
            f"purity: {self._title}, {top_latents} latents",
            "purity",
            {"tops": self._tops_key, "purity": settings},
            measure,
        )
        self.result.seconds["purity"] = self.result.seconds.get("purity", 0.0) + stage.seconds
        if "purity" in stage.output:
            return PurityResult.from_dict(stage.output["purity"])
        self.result.notes.append(f"{self.result.title}: purity was not measured. {stage.output['not_measured']}")
        return None

    def probe(self) -> None:
        """Linear, nearest-centroid and nearest-neighbour probes; nothing in them depends on the seed of a training."""
        if self._test is None:
            return
        train, test = self._train, self._test

        def run(folder: Path) -> dict[str, Any]:
            (x, y, _), (test_x, test_y, ids) = _labelled(train), _labelled(test)
            try:
                found = [
                    probe(x, y, test_x, test_y, test_ids=ids)
                    for probe in (linear_probe, centroid_probe, neighbour_probe)
                ]
            except ValueError as error:
                return {"not_measured": str(error)}
            return {"probes": [each.as_dict() for each in found]}

        settings = {"grid": GRID, "folds": FOLDS, "neighbours": NEIGHBOURS}
        stage = self._run(f"probes: {self._title}", "probe", {**self._inputs, "probes": settings}, run)
        self.result.seconds["probe"] = stage.seconds
        if "probes" in stage.output:
            self.result.probe, *self.result.other_probes = map(ProbeResult.from_dict, stage.output["probes"])
        else:
            self.result.notes.append(
                f"{self.result.title}: the linear probe was not run. {stage.output['not_measured']}"
            )

    def _run(self, name: str, kind: str, inputs: dict[str, Any], work: Callable[[Path], dict[str, Any]]) -> Stage:
        return self._stages.run(name, f"{kind}/{self._place}", inputs, work)


def _labelled(store: Any) -> tuple[Tensor, Tensor, Tensor]:
    known = store.labels >= 0
    return store.features()[known], store.labels[known], store.image_ids[known]

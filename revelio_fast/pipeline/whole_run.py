"""`run`: the whole job of one configuration, stage after stage, ending in a report folder."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revelio_fast.atomic import atomic_write_json
from revelio_fast.config import RunConfig, load_config
from revelio_fast.pipeline.classifier import classify
from revelio_fast.pipeline.extraction import LATENTS, MODEL, PIXELS, RANDOM, Extraction
from revelio_fast.pipeline.inputs import Images, open_images
from revelio_fast.pipeline.measure import Measured, measure
from revelio_fast.pipeline.preflight import check_run
from revelio_fast.pipeline.stages import Stage, Stages
from revelio_fast.report import Baseline, DiffCRun, LayerRun, RunSummary, versions, write_report


@dataclass
class RunResult:
    """What a run made.

    Attributes
    ----------
    out_dir, report : Path
        The run's folder, and the ``report.md`` in it.
    summary : RunSummary
        All figures, as the report lays them out.
    measured : list of Measured
        k-SAE, top images, purity and probe of each layer and timestep, then of the baselines.
    stages : list of Stage
        With the folder of each, and whether it was skipped as done before.
    """

    out_dir: Path
    report: Path
    summary: RunSummary
    measured: list[Measured]
    stages: list[Stage] = field(default_factory=list)


def run(config: RunConfig | str | os.PathLike[str], *, progress: bool = True) -> RunResult:
    """Do everything a configuration asks for and write the report.

    Extraction, a k-SAE for each layer and timestep, top images, purity, linear probes, the same on the baselines,
    Diff-C, report. Every stage is kept in a folder of `config.out_dir` named by what it depends on: a second run skips
    what is done, and a killed one continues.

    Parameters
    ----------
    config : RunConfig or path
        A YAML file, or settings made in Python.
    progress : bool
        Print the stages and progress bars to stderr.

    Raises
    ------
    ValueError
        If the model, a layer or the source does not exist, or images cannot be read; the message says what to do.
    """
    started = time.perf_counter()
    if not isinstance(config, RunConfig):
        config = load_config(config)
    root = Path(config.out_dir)
    stages = Stages(root, progress)
    images = open_images(config)
    check_run(config, images)
    root.mkdir(parents=True, exist_ok=True)
    atomic_write_json(root / "config.json", config.as_json())
    atomic_write_json(root / "versions.json", versions())
    extraction = Extraction(config, images, stages, progress)
    measured = _measure_all(config, stages, extraction, progress)
    diffc: list[DiffCRun] = []
    if config.diffc.enabled and images.test is not None:
        diffc = classify(config, images, stages, extraction, progress)
    summary = _summary(config, images, measured, diffc, stages, time.perf_counter() - started)
    stages.say("report")
    report = write_report(
        summary,
        root / "report",
        load_image=(lambda image_id: images.train.item(image_id).load()) if config.report.sheets else None,
        latents=max(1, config.report.sheets),
        images=config.report.sheet_images,
        progress=progress,
    )
    atomic_write_json(
        root / "stages.json",
        [
            {
                "name": stage.name,
                "folder": stage.folder.relative_to(root).as_posix(),
                "seconds": stage.seconds,
                "key": stage.key,
            }
            for stage in stages.finished
        ],
    )
    stages.say(f"finished: {report}")
    return RunResult(root, report, summary, measured, stages.finished)


def _measure_all(config: RunConfig, stages: Stages, extraction: Extraction, progress: bool) -> list[Measured]:
    keys = [(layer, timestep) for layer in config.layers for timestep in config.timesteps]
    section = config.baselines
    found = []
    halves = extraction.pooled(MODEL)
    for key in keys:
        found.append(measure(config, stages, halves, MODEL, key, progress=progress))
    if section.random_weights:
        halves = extraction.pooled(RANDOM)
        for key in keys:
            found.append(measure(config, stages, halves, RANDOM, key, with_sae=section.sae, progress=progress))
    # As many latents as the widest layer has: a k-SAE on 3,072 pixel values would otherwise have more than any.
    n_latents = config.sae.latents(max(each.d for each in found))
    for which, wanted in ((PIXELS, section.raw_pixels), (LATENTS, section.vae_latents)):
        if wanted:
            halves = extraction.raw(which)
            measured = measure(
                config, stages, halves, which, None, with_sae=section.sae, n_latents=n_latents, progress=progress
            )
            found.append(measured)
    return found


def _summary(
    config: RunConfig,
    images: Images,
    measured: list[Measured],
    diffc: list[DiffCRun],
    stages: Stages,
    seconds: float,
) -> RunSummary:
    layers = [
        LayerRun(
            layer=each.key[0],
            timestep=each.key[1],
            d=each.d,
            n_latents=each.n_latents,
            k=each.k,
            n_images=each.n_images,
            purity=each.purity,
            probe=each.probe,
            tops=each.tops,
            history=each.history,
            metrics=each.metrics,
            seconds=each.seconds,
        )
        for each in measured
        if each.name == MODEL and each.key
    ]
    baselines = [
        Baseline(
            name=each.name,
            layer=each.key[0] if each.key else None,
            timestep=each.key[1] if each.key else None,
            purity=each.purity,
            probe=each.probe,
        )
        for each in measured
        if each.name != MODEL
    ]
    return RunSummary(
        title=config.report.title or f"{config.model} on {images.train.name}",
        model=config.model,
        dataset=images.train.name,
        n_images=len(images.train),
        prompt=_prompt_words(config),
        class_names=images.class_names if images.labelled else [],
        labels=images.train.labels,
        layers=layers,
        baselines=baselines,
        diffc=diffc,
        config=config.as_json(),
        versions=versions(),
        seconds=_phases(stages, seconds),
        notes=_notes(config, images, measured, stages),
    )


def _prompt_words(config: RunConfig) -> str:
    named = {name: value for name, value in config.prompts.as_json().items() if value is not None}
    return ", ".join(f"{key}: {value}" for key, value in named.items()) or config.prompt


def _phases(stages: Stages, seconds: float) -> dict[str, float]:
    """Seconds by kind of stage, those of earlier runs included, and of this run as a whole."""
    phases: dict[str, float] = {}
    for stage in stages.finished:
        kind = stage.folder.relative_to(stages.root).parts[0]
        phases[kind] = round(phases.get(kind, 0.0) + stage.seconds, 3)
    return phases | {"this run": round(seconds, 3)}


def _notes(config: RunConfig, images: Images, measured: list[Measured], stages: Stages) -> list[str]:
    sizes = f"{len(images.train)} training images" + (f", {len(images.test)} test images" if images.test else "")
    notes = [
        f"Sizes of this run: {sizes}; k-SAE of expansion factor {config.sae.expansion_factor}, k = {config.sae.k}, "
        f"{config.sae.steps} steps of up to {config.sae.batch_size} images (the paper: factor 64, k = 32)."
    ]
    if config.diffc.enabled and images.test is not None:
        notes[0] += f" Diff-C of width {config.diffc.width}, {config.diffc.epochs} epochs (the paper: 1024, 30)."
    notes += images.notes
    if config.prompts.template is not None and config.prompts.from_clip is None:
        notes.append(
            "The prompts name each image's true class: an oracle. Accuracies and purities of these features say what "
            "the network does with the label, not what it sees."
        )
    found = [(stage.name, stage.output["prompts"]) for stage in stages.finished if stage.output.get("prompts")]
    notes += dict.fromkeys(f"Prompts of {name.split(':')[0]}: {words}." for name, words in found)
    skipped: dict[str, Any] = {}
    for stage in stages.finished:
        skipped |= dict.fromkeys(stage.output.get("skipped", []))
    if skipped:
        shown = "; ".join(list(skipped)[:5]) + (" ..." if len(skipped) > 5 else "")
        notes.append(f"{len(skipped)} images could not be read and were skipped: {shown}.")
    return notes + [note for each in measured for note in each.notes]

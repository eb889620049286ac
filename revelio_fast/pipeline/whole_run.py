"""`run`: the whole job of one configuration, stage after stage, ending in a report folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from revelio_fast.atomic import atomic_write_json
from revelio_fast.config import RunConfig, load_config
from revelio_fast.pipeline.classifier import classify
from revelio_fast.pipeline.extraction import LATENTS, MODEL, PIXELS, RANDOM, Extraction, Key
from revelio_fast.pipeline.inputs import Images, open_images
from revelio_fast.pipeline.measure import Measurement
from revelio_fast.pipeline.preflight import check_run
from revelio_fast.pipeline.stages import Stage, Stages
from revelio_fast.report import ClassifierResult, FeatureResult, RunSummary, versions, write_report


@dataclass
class RunResult:
    """What a run made.

    Attributes
    ----------
    out_dir, report : Path
        The run's folder, and the ``report.md`` in it.
    summary : RunSummary
        All figures, as the report lays them out: of each layer and timestep, then of the baselines, for each seed.
    stages : list of Stage
        With the folder of each, and whether it was skipped as done before.
    """

    out_dir: Path
    report: Path
    summary: RunSummary
    stages: list[Stage] = field(default_factory=list)


def run(config: RunConfig | str | os.PathLike[str], *, progress: bool = True) -> RunResult:
    """Do everything a configuration asks for and write the report.

    Extraction, a k-SAE for each layer and timestep, top images, purity, probes, the same on the baselines, Diff-C,
    report; with several `seeds`, all trainings once for each. Every stage is kept in a folder of `config.out_dir` named
    by what it depends on: a second run skips what is done, and a killed one continues.

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
    if not isinstance(config, RunConfig):
        config = load_config(config)
    root = Path(config.out_dir)
    stages = Stages(root, progress)
    images = open_images(config)
    check_run(config, images)
    root.mkdir(parents=True, exist_ok=True)
    atomic_write_json(root / "config.json", config.as_json())
    atomic_write_json(root / "versions.json", versions())
    first = Extraction(config, images, stages, progress)
    measurements: list[Measurement] = []
    classifiers: list[ClassifierResult] = []
    for seed in config.seeds or (config.seed,):
        seeded = config.with_seed(seed) if config.seeds else config
        extraction = Extraction(seeded, images, stages, progress) if config.seed_features else first
        measurements += _measure_all(seeded, stages, extraction, progress)
        if config.diffc.enabled and images.test is not None:
            classifiers += classify(seeded, images, stages, extraction, progress)
    _compare_purities(measurements)
    summary = _summary(config, images, [each.result for each in measurements], classifiers, stages)
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
    return RunResult(root, report, summary, stages.finished)


def _measure_all(config: RunConfig, stages: Stages, extraction: Extraction, progress: bool) -> list[Measurement]:
    """The model's features, then the baselines', with the seed of `config`."""
    section = config.baselines
    keys = [(layer, timestep) for layer in config.layers for timestep in config.timesteps]
    found = []

    def measure(halves: dict[str, Stage], which: str, key: Key | None, n_latents: int | None = None) -> None:
        detail = extraction.detail(which, halves)
        each = Measurement(config, stages, halves, which, key, detail=detail, progress=progress)
        if which == MODEL or section.sae:
            each.train_sae(n_latents)
            each.measure_purity()
        if config.probe:
            each.probe()
        found.append(each)

    for which in [MODEL] + [RANDOM] * section.random_weights:
        halves = extraction.pooled(which)
        for key in keys:
            measure(halves, which, key)
    # As many latents as the widest layer has: a k-SAE on 3,072 pixel values would otherwise have more than any.
    n_latents = config.sae.latents(max(each.result.d for each in found))
    for which in [PIXELS] * section.raw_pixels + [LATENTS] * section.vae_latents:
        measure(extraction.raw(which), which, None, n_latents)
    return found


def _compare_purities(measurements: list[Measurement]) -> None:
    """Measure every purity once more, over as many latents as the result with the fewest has."""
    counts = [each.result.purity.n_latents_used for each in measurements if each.result.purity]
    for each in measurements if counts else []:
        each.measure_purity_at(min(counts))


def _summary(
    config: RunConfig,
    images: Images,
    features: list[FeatureResult],
    classifiers: list[ClassifierResult],
    stages: Stages,
) -> RunSummary:
    return RunSummary(
        title=config.report.title or f"{config.model} on {images.train.name}",
        model=config.model,
        dataset=images.train.name,
        n_images=len(images.train),
        prompt=_prompt_words(config),
        class_names=images.class_names if images.labelled else [],
        features=features,
        classifiers=classifiers,
        notes=_notes(config, images, features, stages),
        config=config.as_json(),
        versions=versions(),
        seconds=_phases(stages.finished, stages.root),
        seconds_now=_phases([each for each in stages.finished if not each.skipped], stages.root),
        labels=images.train.labels,
        file_names={item.image_id: item.path for item in images.train},
    )


def _prompt_words(config: RunConfig) -> str:
    named = {name: value for name, value in config.prompts.as_json().items() if value is not None}
    return ", ".join(f"{key}: {value}" for key, value in named.items()) or config.prompt


def _phases(finished: list[Stage], root: Path) -> dict[str, float]:
    """Seconds by kind of stage."""
    phases: dict[str, float] = {}
    for stage in finished:
        kind = stage.folder.relative_to(root).parts[0]
        phases[kind] = round(phases.get(kind, 0.0) + stage.seconds, 3)
    return phases


def _notes(config: RunConfig, images: Images, features: list[FeatureResult], stages: Stages) -> list[str]:
    sizes = f"{len(images.train)} training images" + (f", {len(images.test)} test images" if images.test else "")
    notes = [
        f"Sizes of this run: {sizes}; k-SAE of expansion factor {config.sae.expansion_factor}, k = {config.sae.k}, "
        f"{config.sae.steps} steps of up to {config.sae.batch_size} images (the paper: factor 64, k = 32)."
    ]
    if config.diffc.enabled and images.test is not None:
        notes[0] += f" Diff-C of width {config.diffc.width}, {config.diffc.epochs} epochs (the paper: 1024, 30)."
    notes += images.notes
    if config.seeds:
        named = ", ".join(map(str, config.seeds))
        notes.append(
            f"Seeds {named}: k-SAEs, purity and Diff-C were repeated for each, and figures are means over them. "
            + (
                "So were the noise of the features and the random weights; the hold-out is that of seed "
                if config.seed_features
                else "Features, probes, random weights and the hold-out are those of seed "
            )
            + f"{config.seed}."
        )
    if len(counts := {each.purity.n_latents_used for each in features if each.purity}) > 1:
        fewest = next(e.title for e in features if e.purity and e.purity.n_latents_used == min(counts))
        notes.append(
            f"Purity is compared over {min(counts)} latents, all that {fewest} has; others have up to {max(counts)}."
        )
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
    return notes + list(dict.fromkeys(note for each in features for note in each.notes))

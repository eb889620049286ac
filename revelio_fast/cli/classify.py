"""Commands around classifiers: `train-diffc`, `train-diffc-online`, `classify`, `zero-shot`."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from revelio_fast.classifiers.config import DiffCConfig
from revelio_fast.cli.flags import Fields, number_list, with_flags
from revelio_fast.cli.options import Json, Quiet, Source, show
from revelio_fast.config.sections import SourceOptions
from revelio_fast.data.crops import CropConfig
from revelio_fast.features.config import ExtractConfig

if TYPE_CHECKING:
    from revelio_fast.classifiers import Classified, DiffCResult

OUT = typer.Option(help="CSV file for the predictions, NAME.json beside it; a call that was cut off continues.")
SHARE = typer.Option(min=0.01, max=0.99, help="Share of each class that is held out for the test.")


class StoredMapsOnly(TyperCommand):
    """Says where ``train-diffc PHOTOS --cache none`` went; to be dropped with the old names of options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse the old way before its options are met one by one."""
        if "--cache=none" in args or any(pair == ("--cache", "none") for pair in pairwise(args)):
            raise typer.BadParameter(
                "training on fresh crops is a command of its own now: train-diffc-online PHOTOS --layer LAYER "
                "--timestep T --out OUT",
                param_hint="--cache none",
            )
        if "--cache" in args:
            at = args.index("--cache")
            args = args[:at] + args[at + 2 :]
        return super().parse_args(ctx, args)


@with_flags
def train_diffc(
    maps: Annotated[
        Path, typer.Argument(help="Map store of one layer and timestep, from `extract --maps`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Output folder; a run that was cut off continues there.")],
    config: DiffCConfig,
    test: Annotated[Path | None, typer.Option(help="Map store to test on; a share of MAPS by default.")] = None,
    test_share: Annotated[float, SHARE] = 0.2,
    quiet: Quiet = False,
) -> None:
    """Train and test Diff-C, the convolutional classifier of feature maps, on stored maps."""
    from revelio_fast.pipeline.preflight import check_writable

    check_writable(out)
    _show_training(_train_cached(maps, test, test_share, config, out, not quiet), out)


@with_flags
def train_diffc_online(
    photos: Source,
    out: Annotated[Path, typer.Option(help="Output folder; a run that was cut off continues there.")],
    config: DiffCConfig,
    features: Annotated[
        ExtractConfig,
        Fields(without=("layers", "timesteps", "seed", "store_dtype"), named={"batch_size": "extract_batch"}),
    ],
    crops: Annotated[CropConfig, Fields(only=("min_scale",))],
    images: SourceOptions,
    layer: Annotated[str, typer.Option(help="Layer whose maps are read.")] = "up_ft1",
    timestep: Annotated[int, typer.Option(help="Noise level.")] = 25,
    test: Annotated[
        str | None, typer.Option(help="Images to test on; PHOTOS by default, or a share of each class.")
    ] = None,
    test_split: Annotated[str | None, typer.Option(help="Split of the test images.")] = None,
    test_share: Annotated[float, SHARE] = 0.2,
    quiet: Quiet = False,
) -> None:
    """Train and test Diff-C as the paper does: fresh crops go through the diffusion model in every epoch."""
    from revelio_fast.classifiers import train_diffc_online as train
    from revelio_fast.classifiers.online import labelled
    from revelio_fast.features import FeatureExtractor
    from revelio_fast.pipeline.inputs import hold_out
    from revelio_fast.pipeline.preflight import check_extraction, check_writable

    check_writable(out)
    features = replace(features, layers=(layer,), timesteps=(timestep,), seed=config.seed)
    opened = labelled(images.open(photos))
    if test is None and test_split is None:
        opened, tested = hold_out(opened, test_share, config.seed)
        typer.echo(f"{len(tested)} of {len(opened) + len(tested)} images are held out for the test.")
    else:
        tested = labelled(replace(images, split=test_split, limit=None).open(test or photos))
    prompts = features.all_prompts()
    check_extraction(features, opened, prompts, out, None)
    check_extraction(features, tested, prompts, out, 0)
    result = train(
        FeatureExtractor.from_config(features, prompts), opened, tested, config, out_dir=out,
        min_scale=crops.min_scale, batch_size=features.batch_size, on_error=features.on_error, progress=not quiet,
    )  # fmt: skip
    if prompts.summary():
        typer.echo(prompts.summary())
    _show_training(result, out)


def _train_cached(
    train: Path, test: Path | None, test_share: float, config: DiffCConfig, out: Path, progress: bool
) -> DiffCResult:
    import torch

    from revelio_fast.classifiers import CachedMaps, cached_training_maps, feature_record, train_on
    from revelio_fast.features import MapStore
    from revelio_fast.pipeline.inputs import hold_out_positions

    store = MapStore.open(train)
    if not bool((store.labels >= 0).any()):
        raise ValueError(
            f"{train} has no labels: a classifier is trained on classes, extract from class folders or a CSV."
        )
    tested, rows, held = store, (store.labels >= 0).nonzero().flatten(), None
    if test is not None:
        tested = MapStore.open(test)
        held = (tested.labels >= 0).nonzero().flatten()
    else:
        keep, out_of_it = hold_out_positions(store.labels.tolist(), test_share, config.seed)
        rows, held = torch.tensor(keep, dtype=torch.int64), torch.tensor(out_of_it, dtype=torch.int64)
        rows = rows[store.labels[rows] >= 0]
        typer.echo(f"{len(held)} of {len(store)} maps are held out for the test.")
    if crops := len(store.variants()):
        typer.echo(f"Training runs through {crops} random crops of each image, one per epoch.")
    return train_on(
        cached_training_maps(store, config, rows),
        CachedMaps(tested, tested.labels, rows=held),
        config,
        out_dir=out,
        class_names=store.metadata.get("class_names"),
        features=feature_record(store.metadata),
        progress=progress,
    )


def _show_training(result: DiffCResult, out: Path) -> None:
    low, high = result.interval
    typer.echo(
        f"{result.model.title}: test accuracy {result.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, "
        f"{result.n_test} maps, commonest class {result.chance:.2%}); best epoch {result.best_epoch}: "
        f"{result.best_accuracy:.2%}; training {1000 * result.metrics()['train_seconds_per_image']:.1f} ms an image "
        "and epoch"
    )
    typer.echo(f"classifier: {out / 'model'}    epochs: {out / 'history.csv'}    confusion: {out / 'confusion.csv'}")


@with_flags
def classify(
    classifier: Annotated[Path, typer.Argument(help="Output folder of `train-diffc`.", show_default=False)],
    images: Source,
    config: Annotated[ExtractConfig, Fields(only=("batch_size", "on_error"))],
    options: SourceOptions,
    out: Annotated[Path, OUT] = Path("predictions.csv"),
    top: Annotated[int, typer.Option(min=1, help="Classes in a line, best first, with probabilities.")] = 5,
    model: Annotated[
        str | None, typer.Option(help="The diffusion model, if it lies elsewhere than in training.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="CSV with 'prompt' and 'name' or 'file', if trained with such prompts.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Classify new images with a trained classifier; with labels, the accuracy and the confusion matrix too."""
    from revelio_fast.classifiers import load_classifier
    from revelio_fast.models.prompts import File
    from revelio_fast.pipeline.preflight import check_writable

    check_writable(out.parent)
    trained = load_classifier(classifier, model=model, prompt=File(prompt_file) if prompt_file is not None else None)
    found = trained.classify(
        options.open(images), out, top=top, batch_size=config.batch_size, on_error=config.on_error, progress=not quiet
    )
    _show(found, out, as_json)


@with_flags
def zero_shot(
    images: Source,
    config: Annotated[ExtractConfig, Fields(only=("model", "revision", "image_size", "dtype", "seed", "on_error"))],
    options: SourceOptions,
    out: Annotated[Path, OUT] = Path("zero_shot.csv"),
    classes: Annotated[
        Path | None,
        typer.Option(help="Text file, a class a line, in the order of the labels; else the source's names."),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="The prompt, {} is the class; the data set's of the paper, or 'a photo of a {}.'")
    ] = None,
    samples: Annotated[str, typer.Option(help="Noises of a class after each stage of elimination.")] = "25,250",
    keep: Annotated[str, typer.Option(help="Classes left after each stage, the last 1.")] = "5,1",
    loss: Annotated[Literal["l2", "l1"], typer.Option(help="Of the predicted noise.")] = "l2",
    top: Annotated[int, typer.Option(min=1, help="Classes in a line, best first, with errors.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="(class, timestep) pairs of a forward pass.")] = 16,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Diffusion Classifier (Li et al., 2023): name the class whose prompt denoises an image best; no training."""
    from revelio_fast.classifiers import Pruning, ZeroShotClassifier, class_prompts
    from revelio_fast.features import FeatureExtractor
    from revelio_fast.models import OUTPUT
    from revelio_fast.models.clip_prompts import default_templates
    from revelio_fast.pipeline.preflight import check_writable

    check_writable(out.parent)
    source = options.open(images)
    names = source.class_names
    if classes is not None:
        names = [line.strip() for line in classes.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise typer.BadParameter(f"{images} has no class names: list them in a file", param_hint="--classes")
    pruning = Pruning(tuple(number_list(samples, "--samples")), tuple(number_list(keep, "--keep")))
    extractor = FeatureExtractor.from_config(replace(config, layers=(OUTPUT,), timesteps=(0,)))
    prompts = class_prompts(names, template or default_templates(source)[0])
    judge = ZeroShotClassifier(extractor, prompts, names, pruning=pruning, loss=loss, batch_size=batch_size)
    found = judge.classify(source, out, top=top, on_error=config.on_error, progress=not quiet)
    _show(found, out, as_json)


def _show(found: Classified, out: Path, as_json: bool) -> None:
    metrics = found.metrics()
    text = f"{metrics['images']} images"
    if "accuracy" in metrics:
        low, high = metrics["interval"]
        text += (
            f", accuracy {metrics['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}, "
            f"{metrics['labelled']} with labels)"
        )
    if found.seconds_per_image is not None:
        text += f"; {found.seconds_per_image:.4f} s an image ({found.timed} timed)"
    lines = [text]
    measured = [each for each in metrics.get("per_class_accuracy", []) if each["images"]]
    if len(measured) > 2:
        hardest = sorted(measured, key=lambda each: each["accuracy"])[:3]
        told = ", ".join(f"{each['class']} {each['accuracy']:.0%} of {each['images']}" for each in hardest)
        lines.append(f"hardest classes: {told}; all in {out.with_suffix('.json')}")
    lines.append(f"predictions: {out}    figures: {out.with_suffix('.json')}")
    show(as_json, {**metrics, "predictions": str(out)}, lines)

"""Commands around classifiers: `train-diffc`, `classify`, `zero-shot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from revelio_fast.cli.errors import number_list
from revelio_fast.cli.options import Column, ImageSize, Limit, Model, OnError, Quiet, Revision, Split

if TYPE_CHECKING:
    from revelio_fast.classifiers import Classified, DiffCConfig, DiffCResult

SOURCE = typer.Argument(
    help="Folder of images or class folders, CSV, parquet, Hugging Face data set id, or 'digits'.", show_default=False
)
DTYPE = typer.Option(help="Of the diffusion model's weights.")
ROOT = typer.Option(help="Folder of local copies of the paper's data sets; REVELIO_DATA by default.")
OUT = typer.Option(help="CSV file for the predictions, NAME.json beside it; a call that was cut off continues.")


def train_diffc(
    data: Annotated[
        str,
        typer.Argument(
            help="Map store of one layer and timestep, from `extract --maps`; with --cache none: images.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder; a run that was cut off continues there.")],
    test: Annotated[
        str | None, typer.Option(help="Test maps, or test images; a share of each class by default.")
    ] = None,
    test_share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of each class held out.")] = 0.2,
    cache: Annotated[
        Literal["maps", "none"],
        typer.Option(help="'maps': train on stored maps; 'none': fresh crops through the model in every epoch."),
    ] = "maps",
    head: Annotated[
        Literal["diffc", "resnet"], typer.Option(help="'resnet': the baseline \"SD features\" of the paper.")
    ] = "diffc",
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch_size: Annotated[int, typer.Option(min=2)] = 16,
    width: Annotated[int, typer.Option(min=1, help="Channels of the convolutions.")] = 1024,
    dropout: Annotated[float, typer.Option(min=0, max=0.99)] = 0.0,
    lr: Annotated[float, typer.Option()] = 1e-4,
    lr_min: Annotated[float | None, typer.Option(help="End of the cosine; half of --lr by default.")] = None,
    augmentation: Annotated[Literal["flip", "none"], typer.Option(help="Mirror images, or stored maps.")] = "flip",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option()] = "fp32",
    seed: Annotated[int, typer.Option(help="Of weights, order, crops; with --cache none of the noise too.")] = 0,
    model: Annotated[str, typer.Option(help="With --cache none: 'mini-sd', a folder, or a Hub id.")] = "mini-sd",
    layer: Annotated[str, typer.Option(help="With --cache none.")] = "up_ft1",
    timestep: Annotated[int, typer.Option(help="With --cache none.")] = 25,
    prompt: Annotated[str, typer.Option(help="With --cache none: one prompt for all images.")] = "",
    prompt_from_clip: Annotated[
        str | None, typer.Option(metavar="MODEL", help="With --cache none: the class that this CLIP model predicts.")
    ] = None,
    prompt_template: Annotated[
        str | None,
        typer.Option(help="Sentence with {} for CLIP's class; without --prompt-from-clip for the TRUE one: an oracle."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="With --cache none; the model's own by default.")] = None,
    dtype: Annotated[Literal["float32", "bf16", "fp16"], DTYPE] = "float32",
    extract_batch: Annotated[int, typer.Option(min=1, help="With --cache none: images of a forward pass.")] = 8,
    least_area: Annotated[float, typer.Option(help="With --cache none: share of an image that a crop keeps.")] = 0.8,
    split: Annotated[str | None, typer.Option(help="With --cache none: split to train on.")] = None,
    test_split: Annotated[str | None, typer.Option(help="With --cache none: split to test on.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --cache none: use this many images.")] = None,
    image_column: Column = None,
    label_column: Column = None,
    root: Annotated[Path | None, ROOT] = None,
    on_error: OnError = "stop",
    quiet: Quiet = False,
) -> None:
    """Train and test Diff-C, the convolutional classifier of feature maps."""
    from revelio_fast.classifiers import DiffCConfig

    config = DiffCConfig(
        head=head, epochs=epochs, batch_size=batch_size, width=width, dropout=dropout, lr=lr,
        lr_min=lr / 2 if lr_min is None else lr_min, augmentation=augmentation, precision=precision, seed=seed,
    )  # fmt: skip
    if cache == "maps":
        result = _train_cached(Path(data), Path(test) if test else None, test_share, config, out, not quiet)
    else:
        from revelio_fast.classifiers import train_diffc_online
        from revelio_fast.data import open_source
        from revelio_fast.features import FeatureExtractor
        from revelio_fast.models.prompts import choose_prompts
        from revelio_fast.pipeline import model_path
        from revelio_fast.pipeline.inputs import hold_out

        columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column, "root": root}
        prompts = choose_prompts(prompt, from_clip=prompt_from_clip, template=prompt_template)
        images = open_source(data, split=split, limit=limit, **columns)
        if test is None and test_split is None:
            images, tested = hold_out(images, test_share, seed)
            typer.echo(f"{len(tested)} of {len(images) + len(tested)} images are held out for the test.")
        else:
            tested = open_source(test or data, split=test_split, **columns)
        extractor = FeatureExtractor.from_pretrained(
            model_path(model), [layer], [timestep], prompts, image_size=image_size, dtype=dtype, seed=seed
        )
        result = train_diffc_online(
            extractor, images, tested, config, out_dir=out, least_area=least_area, batch_size=extract_batch,
            on_error=on_error, progress=not quiet,
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
        CachedMaps(tested.maps, tested.labels, rows=held),
        config,
        out_dir=out,
        class_names=store.about.get("class_names"),
        features=feature_record(store.about),
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


def classify(
    classifier: Annotated[Path, typer.Argument(help="Output folder of `train-diffc`.", show_default=False)],
    images: Annotated[str, SOURCE],
    out: Annotated[Path, OUT] = Path("predictions.csv"),
    top: Annotated[int, typer.Option(min=1, help="Classes in a line, best first, with probabilities.")] = 5,
    model: Annotated[
        str | None, typer.Option(help="The diffusion model, if it lies elsewhere than in training.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="CSV with 'prompt' and 'image_id' or 'file', if trained with such prompts.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward pass.")] = 8,
    split: Split = None,
    limit: Limit = None,
    image_column: Column = None,
    label_column: Column = None,
    root: Annotated[Path | None, ROOT] = None,
    on_error: OnError = "stop",
    quiet: Quiet = False,
) -> None:
    """Classify new images with a trained classifier; with labels, the accuracy and the confusion matrix too."""
    from revelio_fast.classifiers import load_classifier
    from revelio_fast.data import open_source
    from revelio_fast.models.prompts import File
    from revelio_fast.pipeline import model_path

    trained = load_classifier(
        classifier,
        model=model_path(model) if model is not None else None,
        prompt=File(prompt_file) if prompt_file is not None else None,
    )
    source = open_source(
        images, split=split, image_column=image_column, label_column=label_column, limit=limit, root=root
    )
    found = trained.classify(source, out, top=top, batch_size=batch_size, on_error=on_error, progress=not quiet)
    _show(found, out)


def zero_shot(
    images: Annotated[str, SOURCE],
    out: Annotated[Path, OUT] = Path("zero_shot.csv"),
    model: Model = "mini-sd",
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
    image_size: ImageSize = None,
    dtype: Annotated[Literal["float32", "bf16", "fp16"], DTYPE] = "float32",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    revision: Revision = None,
    split: Split = None,
    limit: Limit = None,
    image_column: Column = None,
    label_column: Column = None,
    root: Annotated[Path | None, ROOT] = None,
    on_error: OnError = "stop",
    quiet: Quiet = False,
) -> None:
    """Diffusion Classifier (Li et al., 2023): name the class whose prompt denoises an image best; no training."""
    from revelio_fast.classifiers import Pruning, ZeroShotClassifier, class_prompts
    from revelio_fast.data import open_source
    from revelio_fast.features import FeatureExtractor
    from revelio_fast.models import OUTPUT
    from revelio_fast.models.clip_prompts import default_templates
    from revelio_fast.pipeline import model_path

    source = open_source(
        images, split=split, image_column=image_column, label_column=label_column, limit=limit, root=root
    )
    names = source.class_names
    if classes is not None:
        names = [line.strip() for line in classes.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise typer.BadParameter(f"{images} has no class names: list them in a file", param_hint="--classes")
    pruning = Pruning(tuple(number_list(samples, "--samples")), tuple(number_list(keep, "--keep")))
    extractor = FeatureExtractor.from_pretrained(
        model_path(model), [OUTPUT], [0], image_size=image_size, dtype=dtype, seed=seed, revision=revision
    )
    prompts = class_prompts(names, template or default_templates(source)[0])
    judge = ZeroShotClassifier(extractor, prompts, names, pruning=pruning, loss=loss, batch_size=batch_size)
    _show(judge.classify(source, out, top=top, on_error=on_error, progress=not quiet), out)


def _show(found: Classified, out: Path) -> None:
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
    typer.echo(text)
    measured = [each for each in metrics.get("per_class_accuracy", []) if each["images"]]
    if len(measured) > 2:
        hardest = sorted(measured, key=lambda each: each["accuracy"])[:3]
        told = ", ".join(f"{each['class']} {each['accuracy']:.0%} of {each['images']}" for each in hardest)
        typer.echo(f"hardest classes: {told}; all in {out.with_suffix('.json')}")
    typer.echo(f"predictions: {out}    figures: {out.with_suffix('.json')}")

"""Commands that train: `train-sae` and `train-diffc`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def train_sae(
    store: Annotated[Path, typer.Argument(help="Store of one layer and timestep, from `extract`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Output folder; a run that was cut off continues there.")],
    validation: Annotated[Path | None, typer.Option(help="Store of held-out images, for the held-out FVU.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Active latents of an image.")] = 32,
    expansion_factor: Annotated[int, typer.Option(min=1, help="Latents for each feature channel.")] = 64,
    steps: Annotated[int, typer.Option(min=1)] = 10_240,
    batch_size: Annotated[int, typer.Option(min=1)] = 8192,
    lr: Annotated[float, typer.Option(min=0)] = 4e-4,
    seed: Annotated[int, typer.Option()] = 0,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Any other field of KSAEConfig: --set aux_k=512. May be repeated.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train a k-sparse autoencoder on stored features."""
    import yaml

    from revelio_fast.ksae import KSAEConfig
    from revelio_fast.ksae import train_ksae as train
    from revelio_fast.store import ActivationStore

    settings: dict[str, Any] = {
        "k": k, "expansion_factor": expansion_factor, "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed
    }  # fmt: skip
    known = [field.name for field in fields(KSAEConfig)]
    for override in overrides or []:
        name, separator, text = override.partition("=")
        if not separator or name not in known:
            raise typer.BadParameter(
                f"{override!r}: expected name=value, name one of {', '.join(known)}", param_hint="--set"
            )
        settings[name] = yaml.safe_load(text)
    data = ActivationStore.open(store)
    held_out = ActivationStore.open(validation).features() if validation is not None else None
    result = train(data, KSAEConfig(**settings), out_dir=out, progress=not quiet, validation=held_out)
    for name, value in result.metrics.items():
        typer.echo(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
    typer.echo(f"k-SAE: {out / 'model'}")


def train_diffc(
    train_maps: Annotated[
        Path, typer.Argument(help="Map store of one layer and timestep, from `extract --maps`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Output folder; a run that was cut off continues there.")],
    test_maps: Annotated[
        Path | None, typer.Option("--test", help="Map store of test images; a share of each class by default.")
    ] = None,
    test_share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of each class held out.")] = 0.2,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch_size: Annotated[int, typer.Option(min=2)] = 16,
    width: Annotated[int, typer.Option(min=1, help="Channels of the convolutions.")] = 1024,
    dropout: Annotated[float, typer.Option(min=0, max=0.99)] = 0.0,
    lr: Annotated[float, typer.Option()] = 1e-4,
    lr_min: Annotated[float | None, typer.Option(help="End of the cosine; half of --lr by default.")] = None,
    augmentation: Annotated[Literal["flip", "none"], typer.Option()] = "flip",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option()] = "fp32",
    seed: Annotated[int, typer.Option()] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train and test Diff-C, the convolutional classifier, on stored feature maps."""
    from revelio_fast.diffc import DiffCConfig
    from revelio_fast.diffc import train_diffc as train
    from revelio_fast.features import MapStore
    from revelio_fast.pipeline.inputs import hold_out_positions

    config = DiffCConfig(
        epochs=epochs, batch_size=batch_size, width=width, dropout=dropout, lr=lr,
        lr_min=lr / 2 if lr_min is None else lr_min, augmentation=augmentation, precision=precision, seed=seed,
    )  # fmt: skip
    first = MapStore.open(train_maps)
    if test_maps is not None:
        second = MapStore.open(test_maps)
        halves = (first.maps, first.labels, second.maps, second.labels)
    else:
        keep, held = hold_out_positions(first.labels.tolist(), test_share, seed)
        halves = (first.maps[keep], first.labels[keep], first.maps[held], first.labels[held])
        typer.echo(f"{len(held)} of {len(first)} maps are held out for the test.")
    result = train(*halves, config, out_dir=out, class_names=first.about.get("class_names"), progress=not quiet)
    low, high = result.interval
    typer.echo(
        f"test accuracy {result.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, {result.n_test} maps, "
        f"commonest class {result.chance:.2%}); best epoch {result.best_epoch}: {result.best_accuracy:.2%}"
    )
    typer.echo(f"classifier: {out / 'model'}    epochs: {out / 'history.csv'}    confusion: {out / 'confusion.csv'}")

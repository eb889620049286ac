"""The command `train-sae`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from revelio_fast.cli.options import Quiet


def train_sae(
    store: Annotated[Path, typer.Argument(help="Store of one layer and timestep, from `extract`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Output folder; a run that was cut off continues there.")],
    validation: Annotated[Path | None, typer.Option(help="Store of held-out images, for the held-out FVU.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Active latents of an image.")] = 32,
    expansion_factor: Annotated[int, typer.Option(min=1, help="Latents for each feature channel.")] = 64,
    steps: Annotated[int, typer.Option(min=1)] = 10_240,
    batch_size: Annotated[int, typer.Option(min=1)] = 8192,
    lr: Annotated[float | None, typer.Option(min=0, help="Learning rate; that of the recipe by default.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    data: Annotated[
        Literal["auto", "memory", "disk"],
        typer.Option(help="Where rows are taken from; auto: memory, if a third of what is free holds the store."),
    ] = "auto",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Any other field of KSAEConfig: --set aux_k=512. May be repeated.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a k-sparse autoencoder on stored features."""
    import yaml

    from revelio_fast.ksae import KSAEConfig
    from revelio_fast.ksae import train_ksae as train
    from revelio_fast.store import ActivationStore

    settings: dict[str, Any] = {
        "k": k, "expansion_factor": expansion_factor, "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed,
        "data": data,
    }  # fmt: skip
    known = [field.name for field in fields(KSAEConfig)]
    for override in overrides or []:
        name, separator, text = override.partition("=")
        if not separator or name not in known:
            raise typer.BadParameter(
                f"{override!r}: expected name=value, name one of {', '.join(known)}", param_hint="--set"
            )
        settings[name] = yaml.safe_load(text)
    rows = ActivationStore.open(store)
    held_out = ActivationStore.open(validation) if validation is not None else None
    result = train(rows, KSAEConfig(**settings), out_dir=out, progress=not quiet, validation=held_out)
    for name, value in result.metrics.items():
        typer.echo(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
    typer.echo(f"k-SAE: {out / 'model'}")

"""The command `train-sae`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from revelio_fast.cli.flags import with_flags
from revelio_fast.cli.options import Json, Quiet, show
from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.renamed import RenamedWarning, new_names
from revelio_fast.settings import types_of


@with_flags
def train_sae(
    store: Annotated[Path, typer.Argument(help="Store of one layer and timestep, from `extract`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Output folder; a run that was cut off continues there.")],
    config: KSAEConfig,
    validation: Annotated[Path | None, typer.Option(help="Store of held-out images, for the held-out FVU.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="The same as a flag: --set aux_k=512. May be repeated.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a k-sparse autoencoder on stored features."""
    from revelio_fast.ksae import train_ksae as train
    from revelio_fast.pipeline.preflight import check_writable
    from revelio_fast.store import ActivationStore

    config = config.changed(**_overridden(overrides or []))
    rows = ActivationStore.open(store)
    config.latents(rows.d)
    held_out = ActivationStore.open(validation) if validation is not None else None
    check_writable(out)
    result = train(rows, config, out_dir=out, progress=not quiet, validation=held_out)
    lines = [f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}" for name, value in
             result.metrics.items()]  # fmt: skip
    known = {name: value if value == value else None for name, value in result.metrics.items()}
    values = {**known, "notes": result.notes, "model": str(out / "model")}
    show(as_json, values, [*lines, *result.notes, f"k-SAE: {out / 'model'}"])


def _overridden(overrides: list[str]) -> dict[str, Any]:
    import yaml

    known = [*types_of(KSAEConfig), *KSAEConfig.__renamed__]
    found: dict[str, Any] = {}
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or name not in known:
            raise typer.BadParameter(
                f"{override!r}: expected name=value, name one of {', '.join(types_of(KSAEConfig))}", param_hint="--set"
            )
        found[name] = yaml.safe_load(text)

    def say(_: str, text: str) -> None:
        warnings.warn(f"--set {text}", RenamedWarning, stacklevel=3)

    return new_names(KSAEConfig.__renamed__, found, say)

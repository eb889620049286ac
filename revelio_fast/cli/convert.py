"""The command `convert`: an autoencoder of one library in the format of another, checked on random rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from revelio_fast.interop.difference import Difference
    from revelio_fast.ksae import KSparseAutoencoder

ROUNDING = 1e-5
"""Largest relative difference that folding weights and other orders of float32 sums explain."""


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A file, a folder, or owner/name/path on the Hub.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder; for formats of one file also a file.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="revelio_fast, authors, saelens, sparsify, dictionary_learning, openai, sdxl_unbox or overcomplete.",
        ),
    ],
    from_: Annotated[str, typer.Option("--from", help="Format of IN, where it cannot be found out.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.")] = None,
    k: Annotated[float | None, typer.Option(help="Active latents of a row, where IN does not say.")] = None,
    rule: Annotated[
        Literal["topk", "batch_topk", "threshold", "abs_topk"] | None,
        typer.Option(help="Choose latents by this rule instead of IN's."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Of the rule threshold, where IN has none.")] = None,
    relu: Annotated[
        Literal["none", "before", "after"] | None,
        typer.Option(help="Clamp values at zero as OUT's format does, where IN does not; the check says what changes."),
    ] = None,
) -> None:
    """Convert an autoencoder to the format of another library, and check that it computes the same."""
    from revelio_fast.interop import formats
    from revelio_fast.interop.difference import difference
    from revelio_fast.interop.source import Given
    from revelio_fast.ksae import KSparseAutoencoder

    target = to.replace("-", "_")
    formats.find(target)
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out} exists: give a new folder or file, so that no file of another format is overwritten")
    name, found = formats.detect(source, from_, revision)
    given = Given(int(k) if k is not None and k == int(k) else k, rule, threshold)
    sae = KSparseAutoencoder.from_rows(**formats.read_source(name, found, given)._asdict())
    _say("read", f"{found.path} ({name}): {sae.n_latents:,} latents of width {sae.d_in:,}")
    _say("", sae.semantics.describe(sae.k))
    if relu is not None and relu != sae.semantics.relu:
        changed = _with_relu(sae, relu)
        _say("changed", f"{changed.semantics.describe(sae.k)}; against IN as it is:")
        _say("", _words(difference(sae, changed)))
        sae = changed
    sae.save_as(out, target)
    files = [out] if out.is_file() else sorted(out.iterdir())
    sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:,.3f} MB" for file in files)
    again = KSparseAutoencoder.from_pretrained(
        out, format=target, k=None if sae.semantics.rule == "threshold" else sae.k
    )
    _say("wrote", f"{out} ({target}): {sizes}")
    _say("", again.semantics.describe(again.k))
    apart = difference(sae, again)
    _say("check", _words(apart))
    if not max(apart.codes, apart.reconstructions) <= ROUNDING:
        raise ValueError(f"{out} was written, but computes something else when it is read again: do not use it")


def _with_relu(sae: KSparseAutoencoder, relu: str) -> KSparseAutoencoder:
    """The same weights with another ReLU."""
    semantics = dataclasses.replace(sae.semantics, relu=relu)
    return type(sae).from_rows(
        sae.state_dict(), k=sae.k, where="the autoencoder", semantics=semantics, metadata=sae.metadata
    )


def _words(apart: Difference) -> str:
    rows = "the same latents" if not apart.other_latents else f"other latents in {apart.other_latents} rows"
    said = (
        f"{apart.rows} random rows with {apart.active:.1f} active latents each: {rows}; largest difference of codes "
        f"{apart.codes:.1e}, of reconstructions {apart.reconstructions:.1e} (relative to the largest value)"
    )
    return said if apart.active else f"{said}. No latent was active, so this says little"


def _say(what: str, text: str) -> None:
    typer.echo(f"{what:<9}{text}")

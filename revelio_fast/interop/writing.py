"""What the writers of other libraries' formats share: refusals in one wording, and folded weights.

Rescaling, an input scale and a missing subtraction of b_pre can be folded into the weights: the autoencoder then
computes the same up to rounding, in formats that have no words for them.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from revelio_fast.ksae.model import KSparseAutoencoder


class Rows(NamedTuple):
    """Weights on the CPU in float32: ``W_enc, W_dec [n, d]``, ``b_enc [n]``, ``b_pre [d]``."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_pre: Tensor


def folded(sae: KSparseAutoencoder, *, rescale: bool = True, centring: bool = True) -> Rows:
    """The weights of `sae` with the input scale folded in.

    Parameters
    ----------
    sae : KSparseAutoencoder
    rescale : bool
        Fold the rescaling by decoder norms too, after which the decoder's rows have norm 1.
    centring : bool
        Where b_pre is not subtracted from the features, add ``W_enc b_pre`` to b_enc, so that it may be.
    """
    W_enc, W_dec, b_enc, b_pre = (p.detach().cpu().float() for p in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_pre))
    how = sae.semantics
    if how.rescale_by_decoder_norm and rescale:
        norms = W_dec.norm(dim=1)
        W_enc, b_enc, W_dec = W_enc * norms[:, None], b_enc * norms, W_dec / norms[:, None]
    if not how.subtract_b_pre and centring:
        b_enc = b_enc + W_enc @ b_pre
    if how.input_scale != 1:
        W_enc, W_dec, b_pre = W_enc * how.input_scale, W_dec / how.input_scale, b_pre / how.input_scale
    return Rows(W_enc, W_dec, b_enc, b_pre)


def require(
    sae: KSparseAutoencoder,
    format: str,
    *,
    rules: tuple[str, ...],
    relu: bool | None,
    norms: tuple[str, ...] = ("none",),
) -> None:
    """Refuse what a format cannot express.

    Parameters
    ----------
    sae : KSparseAutoencoder
    format : str
        Its name in errors.
    rules : tuple of str
        Rules that it has.
    relu : bool or None
        True: it always clamps at zero, False: it never does, None: it can say.
    norms : tuple of str
        Input normalisations that it has.

    Raises
    ------
    ValueError
        Naming what does not fit, and what to do.
    """
    how = sae.semantics
    if how.rule not in rules:
        raise ValueError(
            f"the format {format} has no rule {how.rule!r}, only {', '.join(rules)}: choose another format, or read "
            "it with rule= one of these"
        )
    if relu is not None and sae.relu != relu:
        does, has = ("clamps", "never does") if sae.relu else ("does not clamp", "always does")
        raise ValueError(
            f"this autoencoder {does} its values at zero and the format {format} {has}: written there it would compute "
            f"something else. Choose another format, or change it first: sae.semantics = "
            f"dataclasses.replace(sae.semantics, relu={'after' if relu else 'none'!r}), or convert with --relu"
        )
    if how.input_norm not in norms:
        raise ValueError(
            f"the format {format} goes with input normalisation {' or '.join(norms)}, this autoencoder has "
            f"{how.input_norm!r}: choose another format"
        )


def whole_k(sae: KSparseAutoencoder, format: str) -> int:
    """k of an autoencoder whose format must say it.

    Raises
    ------
    ValueError
        If it is unknown or no whole number.
    """
    if not isinstance(sae.k, int):
        raise ValueError(
            f"the format {format} says how many latents are active in a row, this autoencoder has k={sae.k}: set sae.k "
            "to a whole number, or read it with k="
        )
    return sae.k


def one_threshold(sae: KSparseAutoencoder, format: str) -> float:
    """The threshold that all latents have, for a format that knows only one.

    Raises
    ------
    ValueError
        If there is none, or they differ.
    """
    if sae.threshold is None or not bool((sae.threshold == sae.threshold[0]).all()):
        found = "none" if sae.threshold is None else f"{sae.threshold.min():.6g} to {sae.threshold.max():.6g}"
        raise ValueError(f"the format {format} has one threshold for all latents, this autoencoder has {found}")
    return float(sae.threshold[0])

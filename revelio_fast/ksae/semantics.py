"""`Semantics`: everything besides its weights that fixes what numbers a sparse autoencoder computes.

Libraries agree on the linear maps and differ in the rest: where the ReLU stands, how active latents are chosen, what is
done to the features first. Readers and writers of checkpoints and `KSparseAutoencoder` are all driven by this record.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

RULES = ("topk", "batch_topk", "threshold", "abs_topk")
RELUS = ("none", "before", "after")
INPUT_NORMS = ("none", "layer_norm", "rms_norm")
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Semantics:
    """How a sparse autoencoder chooses its latents, and what it does to features and values.

    With h = W_enc (f(x) - b_pre) + b_enc, the code z keeps some entries of h and x_hat = f^-1(W_dec^T z + b_pre).

    Parameters
    ----------
    rule : {"topk", "batch_topk", "threshold", "abs_topk"}
        Entries of h that are kept. "topk": the k largest of each row. "batch_topk": the k B largest of all B rows
        together (Bussmann et al. 2024), so that a row's code depends on its batch. "threshold": those above the
        latent's threshold (JumpReLU; plain ReLU with threshold 0). "abs_topk": the k of greatest magnitude, signed.
    relu : {"none", "before", "after"}
        Whether entries are clamped at zero before they are chosen, after, or not at all. Before and after differ only
        in which entries of value 0 are reported for rows with fewer than k positive entries. "batch_topk" and
        "threshold" always clamp before, "abs_topk" never does.
    subtract_b_pre : bool
        False: b_pre is added to the reconstruction, but not subtracted from the features.
    input_norm : {"none", "layer_norm", "rms_norm"}
        f. "layer_norm": each feature vector minus its mean, over its standard deviation (unbiased) plus 1e-5, and
        back by mean and standard deviation. "rms_norm": scaled to norm sqrt(d), and back.
    input_scale : float
        f multiplies the features by it, and the reconstruction is divided by it; not together with `input_norm`.
    rescale_by_decoder_norm : bool
        h is multiplied by the norms of the decoder's rows before the choice, z divided by them before decoding.
    groups : tuple of int
        Sizes of the groups of a Matryoshka autoencoder, in the order of the latents. They matter in training only.

    Raises
    ------
    ValueError
        For a field outside these, or fields that contradict each other.
    """

    rule: str = "topk"
    relu: str = "none"
    subtract_b_pre: bool = True
    input_norm: str = "none"
    input_scale: float = 1.0
    rescale_by_decoder_norm: bool = False
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in (("rule", RULES), ("relu", RELUS), ("input_norm", INPUT_NORMS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("subtract_b_pre", "rescale_by_decoder_norm"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        needed = {"batch_topk": "before", "threshold": "before", "abs_topk": "none"}.get(self.rule, self.relu)
        if self.relu != needed:
            raise ValueError(f"the rule {self.rule!r} goes with relu={needed!r}, got {self.relu!r}")
        scale = self.input_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
            raise ValueError(f"input_scale must be a positive number, got {scale!r}")
        if scale != 1 and self.input_norm != "none":
            raise ValueError(f"input_scale must be 1 together with input_norm={self.input_norm!r}, got {scale}")
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in self.groups):
            raise ValueError(f"groups must be sizes of at least 1, got {self.groups!r}")

    @property
    def is_plain(self) -> bool:
        """Whether this is the k-SAE of the paper: top k of centred features, with a ReLU or without."""
        changed = self.input_norm != "none" or self.input_scale != 1 or self.rescale_by_decoder_norm
        return self.rule == "topk" and self.subtract_b_pre and not changed

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON can hold them."""
        return asdict(self) | {"groups": list(self.groups)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Semantics:
        """The record that `as_dict` gave.

        Raises
        ------
        ValueError
            For a field that this version does not know, or a value that is not allowed.
        """
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"semantics has the unknown field {unknown[0]}: a newer revelio_fast wrote it")
        try:
            return cls(**values | {"groups": tuple(values.get("groups", ()))})
        except TypeError as error:
            raise ValueError(f"semantics is damaged: {error}") from error

    def describe(self, k: float | None) -> str:
        """The record in words, with `k` of the autoencoder."""
        words = {
            "topk": f"top {k} of each row",
            "batch_topk": f"top {k} a row of the whole batch",
            "threshold": "above the latents' thresholds" + (f" (trained for {k} a row)" if k is not None else ""),
            "abs_topk": f"top {k} of each row by magnitude",
        }[self.rule]
        parts = [words, {"none": "no ReLU", "before": "ReLU before", "after": "ReLU after"}[self.relu]]
        parts.append("b_pre subtracted and added" if self.subtract_b_pre else "b_pre only added")
        if self.input_norm != "none":
            parts.append({"layer_norm": "layer norm of the features", "rms_norm": "features scaled to norm sqrt(d)"}
                         [self.input_norm])  # fmt: skip
        if self.input_scale != 1:
            parts.append(f"features times {self.input_scale:.6g}")
        if self.rescale_by_decoder_norm:
            parts.append("rescaled by decoder norms")
        if self.groups:
            parts.append(f"Matryoshka groups {', '.join(map(str, self.groups))}")
        return "; ".join(parts)

    def normalise(self, x: Tensor) -> Tensor:
        """f(x) of features ``[B, d]``."""
        if self.input_norm == "layer_norm":
            centred = x - x.mean(1, keepdim=True)
            return centred / (centred.std(1, keepdim=True) + LAYER_NORM_EPS)
        if self.input_norm == "rms_norm":
            return x * (math.sqrt(x.shape[1]) / x.norm(dim=1, keepdim=True))
        return x if self.input_scale == 1 else x * self.input_scale

    def restore(self, x_hat: Tensor, x: Tensor | None) -> Tensor:
        """f^-1 of a reconstruction ``[B, d]``, by the statistics of the features `x` that it belongs to.

        Raises
        ------
        ValueError
            If the statistics are needed and `x` is None.
        """
        if self.input_norm == "none":
            return x_hat if self.input_scale == 1 else x_hat / self.input_scale
        if x is None:
            raise ValueError(
                f"this autoencoder normalises every feature vector ({self.input_norm}): decode(code, x) needs the "
                "features x that the code was made from, to undo it"
            )
        if self.input_norm == "rms_norm":
            return x_hat * (x.norm(dim=1, keepdim=True) / math.sqrt(x.shape[1]))
        return torch.addcmul(x.mean(1, keepdim=True), x_hat, x.std(1, keepdim=True))

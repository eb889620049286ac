"""`TopActivations`: the m strongest images of every latent, streamed, merged across shards, saved as safetensors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from revelio_fast import ops
from revelio_fast.atomic import atomic_write_bytes

KIND = "revelio_fast.top_activations"
SCHEMA_VERSION = 1


class TopActivations:
    """The `m` images that activate each latent most, with the statistics needed to rank latents.

    Only positive activations count. Order: activation descending, then lower image id; an image has one place.

    Parameters
    ----------
    n_latents : int
        Latents of the k-SAE (n).
    m : int
        Images to keep of each.
    device : torch.device or str, optional
        Where the state lives and `update` runs.
    **about
        Kept with the state and saved (layer, timestep, what was ranked ...), as JSON values.

    Attributes
    ----------
    values : Tensor
        ``[n, m]`` float32 activations; empty places are -inf.
    image_ids : Tensor
        ``[n, m]`` int64; empty places are -1.
    counts : Tensor
        ``[n]`` int64, in how many rows the latent was active.
    n_images : int
        Rows seen.
    """

    def __init__(self, n_latents: int, m: int = 20, device: torch.device | str | None = None, **about: Any):
        if n_latents < 1 or m < 1:
            raise ValueError(f"n_latents and m must be at least 1, got n_latents={n_latents}, m={m}.")
        self.state = ops.TopState.empty(n_latents, m, device)
        self.n_images = 0
        self.about: dict[str, Any] = about

    @property
    def values(self) -> Tensor:
        return self.state.values

    @property
    def image_ids(self) -> Tensor:
        return self.state.image_ids

    @property
    def counts(self) -> Tensor:
        return self.state.counts

    @property
    def n_latents(self) -> int:
        return self.values.shape[0]

    @property
    def m(self) -> int:
        return self.values.shape[1]

    @property
    def mean_activation(self) -> Tensor:
        """``[n]`` float64: mean activation over the rows where the latent is active; 0 where it never is."""
        return self.state.sums / self.counts.clamp_min(1)

    @property
    def density(self) -> Tensor:
        """``[n]`` float64: share of the rows in which the latent is active."""
        return self.counts.double() / max(self.n_images, 1)

    def update(self, code: ops.Code, image_ids: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        code : Code
            ``[B, k]``, from `KSparseAutoencoder.encode`.
        image_ids : Tensor
            ``[B]`` int64, not negative.
        """
        ops.top_activations_update_(self.state, code, image_ids)
        self.n_images += image_ids.shape[0]

    def merge(self, other: TopActivations) -> None:
        """Take in what `other` saw on other rows, as if `update` had been called with them here.

        Raises
        ------
        ValueError
            If the two differ in latents or m.
        """
        if (self.n_latents, self.m) != (other.n_latents, other.m):
            raise ValueError(
                f"Cannot merge top activations of {other.n_latents} latents x {other.m} images into "
                f"{self.n_latents} x {self.m}: make both with the same n_latents and m."
            )
        device = self.values.device
        values, image_ids = merge_ranked(
            torch.cat([self.values, other.values.to(device)], 1),
            torch.cat([self.image_ids, other.image_ids.to(device)], 1),
            self.m,
        )
        self.state = ops.TopState(
            values,
            image_ids,
            self.state.sums + other.state.sums.to(device),
            self.counts + other.counts.to(device),
        )
        self.n_images += other.n_images

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""
        header = {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "n": self.n_latents,
            "m": self.m,
            "n_images": self.n_images,
            "about": self.about,
        }
        tensors = {name: value.cpu() for name, value in self.state._asdict().items()}
        atomic_write_bytes(path, save(tensors, metadata={"revelio_fast": json.dumps(header)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> TopActivations:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not one of ours, damaged, or of a newer schema. Nothing in it is ever executed.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"There are no top activations at {path}: make them with `revelio-fast top-images`."
            )
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("revelio_fast", "{}"))
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(
                f"{path} is not a readable safetensors file ({error}): restore it, or run top-images again."
            ) from error
        if header.get("kind") != KIND:
            raise ValueError(
                f"{path} does not hold top activations: give the file that `revelio-fast top-images` wrote."
            )
        if header.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema version {header.get('schema_version')!r}, this revelio_fast reads "
                f"{SCHEMA_VERSION}: update revelio_fast, or run top-images again."
            )
        tops = cls(header["n"], header["m"], device, **header["about"])
        shapes = {name: value.shape for name, value in tops.state._asdict().items()}
        if {name: value.shape for name, value in tensors.items()} != shapes:
            raise ValueError(f"{path} is damaged: its tensors do not fit its header. Run top-images again.")
        tops.state = ops.TopState(**{name: value.to(tops.values.device) for name, value in tensors.items()})
        tops.n_images = header["n_images"]
        return tops

    def __repr__(self) -> str:
        active = int((self.counts > 0).sum())
        return f"TopActivations(n_latents={self.n_latents}, m={self.m}, n_images={self.n_images}, active={active})"


def merge_ranked(values: Tensor, image_ids: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The m best of each row of candidates: one entry per image, value descending, then lower image id.

    Parameters
    ----------
    values, image_ids : Tensor
        ``[n, c]`` with c >= m; empty places are -inf and -1.
    """
    order = values.argsort(dim=1, descending=True, stable=True)
    values, image_ids = values.gather(1, order), image_ids.gather(1, order)
    order = image_ids.argsort(dim=1, stable=True)
    values, image_ids = values.gather(1, order), image_ids.gather(1, order)
    # Sorted by image id, then value descending: all but the first entry of an image give way.
    repeated = torch.zeros_like(image_ids, dtype=torch.bool)
    repeated[:, 1:] = image_ids[:, 1:] == image_ids[:, :-1]
    values = values.masked_fill(repeated, -torch.inf)
    image_ids = image_ids.masked_fill(repeated, -1)
    order = values.argsort(dim=1, descending=True, stable=True)[:, :m]
    return values.gather(1, order).contiguous(), image_ids.gather(1, order).contiguous()

"""The rows a k-SAE trains on: from a store or a tensor, checked, split once, shuffled every epoch."""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch
from torch import Tensor


class StoreLike(Protocol):
    """What training uses of an `ActivationStore`."""

    d: int
    rows: int

    def features(self) -> Tensor: ...


class TrainingRows:
    """Features ``[N, d]`` with a seeded split into training and held-out rows, and seeded batches.

    The batch of a step depends on the seed and the number of the step only, so a resumed run sees the same batches.
    """

    def __init__(
        self,
        data: StoreLike | Tensor,
        batch_size: int,
        seed: int,
        holdout: float,
        *,
        keep_short: bool = False,
    ) -> None:
        self.features = _checked("data", data if isinstance(data, Tensor) else data.features())
        count, self.seed, self.keep_short = self.features.shape[0], seed, keep_short
        held = min(count - 1, round(count * holdout))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.held_out, self.training = order[:held].sort().values, order[held:].sort().values
        self.batch_size = min(batch_size, len(self.training))
        whole, rest = divmod(len(self.training), self.batch_size)
        self.batches_per_epoch = whole + (1 if keep_short and rest else 0)
        self.device = self.features.device
        self._epoch, self._order = -1, self.training

    def place(self, device: torch.device) -> None:
        """Give batches on `device`; the features move there too where they fit into half of its free memory."""
        self.device, self._epoch = device, -1
        if device.type != "cuda" or self.features.nbytes <= torch.cuda.mem_get_info(device)[0] // 2:
            self.features = self.features.to(device)

    @property
    def d(self) -> int:
        """Width of a feature."""
        return self.features.shape[1]

    def batch(self, step: int) -> Tensor:
        """Rows ``[b, d]`` of the step with this number, counted from 0."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + epoch)
            order = self.training[torch.randperm(len(self.training), generator=generator)]
            self._epoch, self._order = epoch, order.to(self.features.device)
        chosen = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.features.index_select(0, chosen).to(self.device)

    def fingerprint(self) -> str:
        """SHA-256 of the shape and of up to 256 evenly spaced rows: tells a resumed run that these are its features."""
        count = self.features.shape[0]
        sample = self.features[torch.linspace(0, count - 1, min(count, 256), dtype=torch.float64).long()]
        digest = hashlib.sha256(repr(tuple(self.features.shape)).encode())
        digest.update(sample.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def held_out_features(self) -> Tensor | None:
        """Rows that no step trains on; None where there are none."""
        return self.features[self.held_out.to(self.features.device)] if len(self.held_out) else None


def training_device(data: StoreLike | Tensor, asked: torch.device | str | None) -> torch.device:
    """The device asked for; else that of a tensor on a GPU; else a CUDA device if there is one."""
    if asked is not None:
        return torch.device(asked)
    if isinstance(data, Tensor) and data.is_cuda:
        return data.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def checked_validation(validation: StoreLike | Tensor | None, d: int) -> Tensor | None:
    """Held-out features given by the user, of the training data's width."""
    if validation is None:
        return None
    features = _checked("validation", validation if isinstance(validation, Tensor) else validation.features())
    if features.shape[1] != d:
        raise ValueError(f"validation has features of width {features.shape[1]}, the training data {d}")
    return features


def _checked(name: str, features: Tensor) -> Tensor:
    if features.dim() != 2 or features.shape[0] < 2 or features.shape[1] < 1:
        raise ValueError(f"{name} must hold features [rows >= 2, d >= 1], got shape {list(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"{name} must be floating point features, got {features.dtype}")
    features = features.detach().float()
    for start in range(0, features.shape[0], 65536):
        bad = ~features[start : start + 65536].isfinite().all(1)
        if bad.any():
            row = start + int(bad.nonzero()[0])
            raise ValueError(f"{name} holds NaN or infinity, first in row {row}: remove such rows before training")
    return features

"""Diff-C checkpoints: weights, AdamW's moments and the epochs so far, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from revelio_fast.atomic import atomic_path
from revelio_fast.classifiers.config import DiffCConfig
from revelio_fast.classifiers.map_classifier import MapClassifier
from revelio_fast.classifiers.map_source import MapSource
from revelio_fast.classifiers.results import EpochRecord

NAME = "checkpoint.safetensors"


def data_key(config: DiffCConfig, train: MapSource, test: MapSource) -> str:
    """Return a digest of the settings and of both sets of maps."""
    settings = {**asdict(config), "lr_min": config.last_lr}
    text = json.dumps({"config": settings, "train": train.key(), "test": test.key()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_checkpoint(
    folder: Path, key: str, model: MapClassifier, optimizer: torch.optim.Optimizer, history: list[EpochRecord]
) -> None:
    """Replace the checkpoint in `folder` by the state after ``len(history)`` epochs."""
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {"key": key, "history": json.dumps([asdict(record) for record in history])}
    with atomic_path(folder / NAME) as temporary:
        save_file(tensors, temporary, metadata=about)


def load_checkpoint(
    folder: Path, key: str, model: MapClassifier, optimizer: torch.optim.Optimizer
) -> list[EpochRecord]:
    """Restore `model` and `optimizer` in place and return the epochs done; an empty list where there is no checkpoint.

    Raises
    ------
    ValueError
        If the checkpoint belongs to other settings or other data, or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / NAME
    if not path.is_file():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}): delete it to train Diff-C from the start") from None
    if about.get("key") != key:
        raise ValueError(
            f"{path} belongs to a run with other settings or other maps: choose another out_dir, or delete the file"
        )
    model.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    states: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, index, field = name.split(".")
            states.setdefault(int(index), {})[field] = tensor
    restored = optimizer.state_dict()
    restored["state"] = states
    optimizer.load_state_dict(restored)
    return [EpochRecord(**record) for record in json.loads(about["history"])]

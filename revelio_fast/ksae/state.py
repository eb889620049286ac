"""Everything a training run is: parameters, Adam moments, counters, history; and its checkpoints."""

from __future__ import annotations

import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from revelio_fast.atomic import atomic_path, remove_temporaries
from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ops import AdamRows, EncoderShadow
from revelio_fast.renamed import new_names

GENERATIONS = 2
# Fields that may differ between the first and a later part of one run: they do not change its numbers so far.
FREE = {"recipe", "steps", "checkpoint_every", "log_every", "eval_every"}


class TrainingState:
    """Parameters and moments as `AdamRows` (shared with the model), and what else must survive a kill."""

    def __init__(self, sae: KSparseAutoencoder) -> None:
        self.sae = sae
        self.rows = AdamRows.start(sae.W_enc.data, sae.W_dec.data, sae.b_enc.data, sae.b_pre.data)
        self.step = 0
        self.rows_since_active = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.W_dec.device)
        self.history: list[dict[str, float]] = []
        self.shadow: EncoderShadow | None = None
        self.skip_mask: Tensor | None = None
        self.official_active: Tensor | None = None

    def use_shadow(self) -> None:
        """Keep a bfloat16 shadow of W_enc from here on; it is made anew from the weights, so it is not saved."""
        self.shadow = EncoderShadow.of(self.rows.W_enc)

    def use_skip_mask(self) -> None:
        """Skip latents that a step cannot change, from here on; found out anew by the steps, so it is not saved."""
        self.skip_mask = torch.zeros_like(self.rows.b_enc, dtype=torch.uint8)

    def count_official_activity(self) -> None:
        """Count for the authors' statistics in how many rows each latent's pre-activation was not zero."""
        self.official_active = torch.zeros_like(self.rows_since_active)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        counted = {} if self.official_active is None else {"official_active": self.official_active}
        return {**self.rows._asdict(), "rows_since_active": self.rows_since_active, **counted}


def save_checkpoint(folder: Path, state: TrainingState, config: KSAEConfig, data: str, trained_rows: int) -> None:
    """Write ``step-########.safetensors`` whole or not at all, and drop all but the newest two.

    `data` is the fingerprint of the features, `trained_rows` how many of them are not held out.
    """
    about = {
        "step": state.step,
        "config": config.numbers(),
        "data": data,
        "trained_rows": trained_rows,
        "history": state.history,
        "crc32": {name: _crc32(tensor) for name, tensor in state.tensors().items()},
    }
    with atomic_path(folder / f"step-{state.step:08d}.safetensors") as temporary:
        save_file(state.tensors(), temporary, metadata={"training": json.dumps(about)})
    for old in sorted(folder.glob("step-*.safetensors"))[:-GENERATIONS]:
        old.unlink()
    remove_temporaries(folder)


def load_checkpoint(folder: Path, state: TrainingState, config: KSAEConfig, data: str, trained_rows: int) -> bool:
    """Continue from the newest readable checkpoint in `folder`; False if there is none.

    A damaged checkpoint is passed over with a warning.

    Raises
    ------
    ValueError
        If the checkpoints belong to a run with other settings, other features, another split or more steps, or if all
        of them are damaged.
    """
    paths = sorted(folder.glob("step-*.safetensors"), reverse=True)
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["training"])
                shapes = {name: file.get_slice(name).get_shape() for name in state.tensors()}
            found = about["config"], about["step"], about["history"]
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            _pass_over(path, error)
            continue
        _same_run(path, found[0], config)
        for name, tensor in state.tensors().items():
            if shapes[name] != list(tensor.shape):
                raise ValueError(
                    f"{path} belongs to a k-SAE whose {name} has shape {shapes[name]}, the data needs "
                    f"{list(tensor.shape)}: choose another out_dir, or remove {folder}"
                )
        if about.get("data", data) != data:
            raise ValueError(
                f"{path} was written by a run on other features of the same shape: choose another out_dir, "
                f"or remove {folder}"
            )
        if about.get("trained_rows", trained_rows) != trained_rows:
            raise ValueError(
                f"{path} was written by a run that trained on {about['trained_rows']} of the rows, this one would "
                f"train on {trained_rows}: pass validation= as at first, choose another out_dir, or remove {folder}"
            )
        if found[1] > config.steps:
            raise ValueError(
                f"{path} is past the {config.steps} steps this run asks for: ask for at least {found[1]}, choose "
                f"another out_dir, or remove {folder}"
            )
        try:
            _fill(state, path, about.get("crc32", {}))
        except (SafetensorError, OSError, ValueError) as error:
            _pass_over(path, error)  # what was read of it is overwritten by the one before, or the run ends here
            continue
        _, state.step, state.history = found
        return True
    if paths:
        raise ValueError(f"every checkpoint in {folder} is damaged: remove the folder to train from the start")
    return False


def _fill(state: TrainingState, path: Path, sums: dict[str, int]) -> None:
    """Read all tensors into their places, each mapped alone: together they would take the memory of the run again."""
    for name, tensor in state.tensors().items():
        with safe_open(path, framework="pt") as file:
            saved = file.get_tensor(name)
        if name in sums and _crc32(saved) != sums[name]:
            raise ValueError(f"{name} does not have the checksum it was written with")
        tensor.copy_(saved)
        del saved


def _pass_over(path: Path, error: Exception) -> None:
    warnings.warn(f"{path} is damaged ({error}): going on from the checkpoint before it", stacklevel=3)


def _crc32(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().numpy().data)


def _same_run(path: Path, saved: dict[str, Any], config: KSAEConfig) -> None:
    mine, saved = config.numbers(), new_names(KSAEConfig.__renamed__, saved, lambda *_: None)
    # Settings that a checkpoint of an earlier version lacks had the paper's values.
    saved = KSAEConfig(compat=saved.get("compat", "paper")).numbers() | saved
    fixed = FREE - {"steps"} if config.lr_decay else FREE
    other = [name for name in mine if name not in fixed and saved.get(name) != mine[name]]
    if other:
        name = other[0]
        raise ValueError(
            f"{path} was written with {name}={saved.get(name)!r}, this run asks for {mine[name]!r}: "
            f"use the same settings to continue, another out_dir to start anew, or remove {path.parent}"
        )

"""`train_ksae`: the training loop, its logging, checkpoints and final files."""

from __future__ import annotations

import math
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from revelio_fast.atomic import atomic_write_json
from revelio_fast.csv_text import write_csv
from revelio_fast.ksae.batches import FEWEST_HELD_OUT, TrainingRows, training_device
from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.ksae.evaluation import held_out_fvu, official_statistics
from revelio_fast.ksae.initialisation import new_sae
from revelio_fast.ksae.model import KSparseAutoencoder
from revelio_fast.ksae.row_sources import StoreLike, given_validation
from revelio_fast.ksae.state import TrainingState, load_checkpoint, save_checkpoint
from revelio_fast.ksae.stepper import Stepper
from revelio_fast.progress import tqdm


@dataclass
class KSAEResult:
    """A trained k-SAE and how it got there.

    Attributes
    ----------
    sae : KSparseAutoencoder
    history : dict of str to list of float
        Columns ``step, lr, fvu, l0, dead, aux_loss, holdout_fvu`` (NaN where not measured), one entry per logged step;
        ``official_l0``, ``official_dead`` and ``official_explained_variance`` with ``compat="authors"``. `fvu` is that
        of the batch before its update.
    metrics : dict of str to float
        Final ``fvu`` (mean of the last 10 logged), ``holdout_fvu``, ``l0``, ``dead``, ``steps``, ``rows_seen``, and
        ``seconds`` of this call (not written to disk, so that equal runs leave equal files).
    timing : dict of str to list of float
        Seconds of each step of this call: ``wait`` for its rows, ``step`` with that wait, without evaluations and
        checkpoints. On a GPU: until the work is handed over.
    notes : dict of str to str
        Why a metric was left out (NaN here, null in ``metrics.json``), by its name.
    """

    sae: KSparseAutoencoder
    history: dict[str, list[float]]
    metrics: dict[str, float]
    timing: dict[str, list[float]]
    notes: dict[str, str] = field(default_factory=dict)


def train_ksae(
    data: StoreLike | Tensor,
    config: KSAEConfig | None = None,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    validation: StoreLike | Tensor | None = None,
    device: torch.device | str | None = None,
) -> KSAEResult:
    """Train a k-SAE on pooled features.

    Parameters
    ----------
    data : ActivationStore or Tensor
        Features ``[N, d]``. A store that takes more than a third of the free memory is read from disk, each batch while
        the step before runs (``config.data`` decides otherwise); else it is held once, as stored: in the GPU's memory
        where it fits beside the model, else on the host. The result is the same, bit for bit.
    config : KSAEConfig, optional
        Defaults are the paper's.
    out_dir : path, optional
        Receives ``model/``, ``history.csv``, ``metrics.json`` and, during the run, ``checkpoint/``. A run that was
        killed goes on from its last checkpoint and ends with the same files, bit for bit; a finished one is read back.
    progress : bool
        Show a progress bar with FVU, L0 and dead latents.
    validation : ActivationStore or Tensor, optional
        Rows for the held-out FVU, instead of a share of `data`.
    device : optional
        That of `data` if it is a tensor on a GPU, else a CUDA device if there is one, else the CPU.

    Returns
    -------
    KSAEResult

    Raises
    ------
    ValueError
        For NaN or infinite features, a width that does not fit, k larger than the number of latents, or an `out_dir`
        that belongs to a run with other settings.
    StoreError
        If a shard cannot be read, names the file.
    """
    config, started = config or KSAEConfig(), time.perf_counter()
    official = config.compat == "authors"
    val_fraction = 0.0 if validation is not None else config.val_fraction or 0.0
    rows = TrainingRows(
        data, config.batch_size, config.seed, val_fraction, keep_short=official, where=config.data, progress=progress
    )
    config = config.for_width(rows.features.d)
    held_out, why_none = rows.held_out, rows.why_none
    if validation is not None:
        held_out = given_validation(validation, rows.features.d, config.data, progress=progress)
        if held_out.count < FEWEST_HELD_OUT:
            why_none = f"a held-out FVU needs at least {FEWEST_HELD_OUT} rows, and validation has {held_out.count}"
            held_out = None
    _refuse_single_rows(rows)
    state = TrainingState(new_sae(rows, config).to(training_device(data, device)))
    if official:
        state.count_official_activity()
    folder, fingerprint = Path(out_dir) if out_dir is not None else None, rows.fingerprint()
    rows.place(state.rows.W_enc.device)
    if folder is not None:
        load_checkpoint(folder / "checkpoint", state, config, fingerprint, rows.count)
    dead_after = config.dead_rows(rows.batch_size, rows.count)
    if state.rows.W_enc.device.type == "cuda" and config.engine == "fused":
        state.use_shadow()
    take_step = Stepper(state, config, dead_after)
    timing: dict[str, list[float]] = {"wait": [], "step": []}
    with (
        rows.batches(state.step + official, config.steps + official) as batches,
        tqdm(total=config.steps, initial=state.step, desc="k-SAE", disable=not progress, unit="step") as bar,
    ):
        while state.step < config.steps:
            asked = time.perf_counter()
            x = next(batches)
            given = time.perf_counter()
            number = state.step + 1
            last = number == config.steps
            logged = last or number == 1 or number % config.log_every == 0
            dense = official_statistics(state, x, config.batch_size) if official and logged else {}
            result = take_step(x)
            timing["wait"].append(given - asked)
            timing["step"].append(time.perf_counter() - asked)
            saved = last or state.step % config.checkpoint_every == 0
            if logged or saved:
                _refuse_divergence(state, result.fvu.item(), config, weights_too=saved)
            if logged:
                entry = {
                    "step": state.step,
                    "lr": config.lr_at(state.step),
                    "fvu": result.fvu.item(),
                    "l0": result.l0.item(),
                    "dead": int((state.rows_since_active >= dead_after).sum()),
                    "aux_loss": result.aux_loss.item(),
                    "holdout_fvu": float("nan"),
                }
                entry |= dense
                if held_out is not None and (last or state.step % config.eval_every == 0):
                    entry["holdout_fvu"] = held_out_fvu(state.sae, held_out)
                state.history.append(entry)
                speed = x.shape[0] / statistics.median(timing["step"][-config.log_every :])
                bar.set_postfix(
                    {"fvu": f"{entry['fvu']:.4f}", "l0": f"{entry['l0']:.1f}", "dead": entry["dead"],
                     "rows/s": f"{speed:.0f}"}, refresh=False
                )  # fmt: skip
            if folder is not None and saved:
                save_checkpoint(folder / "checkpoint", state, config, fingerprint, rows.count)
                _write_history(folder, state)
            bar.update()
    metrics = _metrics(state, rows)
    if held_out is not None and math.isnan(metrics["holdout_fvu"]):
        why_none = "the held-out rows are all equal: there is no variance to explain"
    notes = {} if why_none is None else {"holdout_fvu": why_none}
    if folder is not None:
        _write_history(folder, state)
        _write(folder, state, metrics, config, notes)
    history = {name: [entry[name] for entry in state.history] for name in state.history[0]}
    return KSAEResult(state.sae, history, metrics | {"seconds": time.perf_counter() - started}, timing, notes)


def _refuse_single_rows(rows: TrainingRows) -> None:
    smallest = min(rows.rows_of(step) for step in (0, rows.batches_per_epoch - 1))
    if smallest < 2:
        raise ValueError(
            f"a batch of one row has no variance to explain: {rows.count} training rows in batches of "
            f"{rows.batch_size} leave one; change batch_size, which must be at least 2, or give more rows"
        )


def _refuse_divergence(state: TrainingState, loss: float, config: KSAEConfig, *, weights_too: bool) -> None:
    """The FVU is that before the update: what is about to be saved is looked at itself."""
    what = None if math.isfinite(loss) else f"the FVU of step {state.step} is {loss}"
    if what is None and weights_too:
        broken = [name for name, tensor in state.tensors().items() if not _finite(tensor)]
        what = f"{broken[0]} is not finite after step {state.step}" if broken else None
    if what is not None:
        raise ValueError(
            f"training diverged: {what}. Lower lr (now {config.lr}) or lengthen warmup_steps; "
            "the last checkpoint is untouched"
        )


def _finite(tensor: Tensor) -> bool:
    """Looked at in parts: torch's temporaries for a whole weight matrix would be larger than that matrix."""
    return all(bool(part.isfinite().all()) for part in tensor.flatten().split(2**22))


def _metrics(state: TrainingState, rows: TrainingRows) -> dict[str, float]:
    last = state.history[-10:]
    return {
        "fvu": sum(entry["fvu"] for entry in last) / len(last),
        "holdout_fvu": state.history[-1]["holdout_fvu"],
        "l0": state.history[-1]["l0"],
        "dead": state.history[-1]["dead"],
        "steps": state.step,
        "rows_seen": sum(rows.rows_of(step + rows.keep_short) for step in range(state.step)),
    }


def _write(
    folder: Path, state: TrainingState, metrics: dict[str, float], config: KSAEConfig, notes: dict[str, str]
) -> None:
    state.sae.save_pretrained(folder / "model")
    known = {name: None if value != value else value for name, value in metrics.items()}  # NaN is not JSON
    atomic_write_json(folder / "metrics.json", {"metrics": known, "notes": notes, "config": config.numbers()})


def _write_history(folder: Path, state: TrainingState) -> None:
    write_csv(folder / "history.csv", list(state.history[0]), [list(entry.values()) for entry in state.history])

"""Training and evaluation of Diff-C on cached feature maps."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from revelio_fast.diffc.checkpoint import data_key, load_checkpoint, save_checkpoint
from revelio_fast.diffc.config import DiffCConfig
from revelio_fast.diffc.model import DiffC
from revelio_fast.diffc.results import DiffCResult, EpochRecord, accuracy_interval, confusion_matrix


def train_diffc(
    train_maps: Tensor,
    train_labels: Tensor,
    test_maps: Tensor,
    test_labels: Tensor,
    config: DiffCConfig | None = None,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    n_classes: int | None = None,
    class_names: list[str] | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> DiffCResult:
    """Train Diff-C on the maps of one layer and timestep, and test it after every epoch.

    Parameters
    ----------
    train_maps, test_maps : Tensor
        ``[N, C, H, W]``, any float dtype; a memory-mapped tensor is read one batch at a time.
    train_labels, test_labels : Tensor
        Integers ``[N]`` from 0 to ``n_classes - 1``.
    config : DiffCConfig, optional
        The paper's settings if left out.
    out_dir : path, optional
        Receives a checkpoint after each epoch, and at the end ``model/``, ``history.csv``, ``confusion.csv`` and
        ``metrics.json``. A second call with the same data and settings goes on after the last whole epoch and gives
        the weights an undisturbed run gives, bit for bit on the same machine and thread count.
    n_classes : int, optional
        By default one more than the largest label, or the number of `class_names`.
    class_names : list of str, optional
        Stored with the model and in the confusion matrix.
    device : optional
        A CUDA device if there is one, else the CPU.
    progress : bool
        Show a progress bar over the epochs.

    Returns
    -------
    DiffCResult

    Raises
    ------
    ValueError
        If shapes, labels or the checkpoint in `out_dir` do not fit.
    """
    config = config or DiffCConfig()
    n_classes = _checked_classes(train_maps, train_labels, test_maps, test_labels, n_classes, class_names)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    train_labels, test_labels = train_labels.long().cpu(), test_labels.long().cpu()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = DiffC(train_maps.shape[1], n_classes, config.dropout, config.width, class_names).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    folder = Path(out_dir) if out_dir is not None else None
    history: list[EpochRecord] = []
    key = ""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        key = data_key(config, (train_maps, train_labels), (test_maps, test_labels))
        history = load_checkpoint(folder, key, model, optimizer)
    _train_epochs(
        model, optimizer, config, (train_maps, train_labels), (test_maps, test_labels), history, folder, key, progress
    )
    predicted = model.predict(test_maps, batch_size=config.test_batch_size).labels
    result = _result(model.eval(), history, train_labels, test_labels, predicted, class_names)
    if folder is not None:
        result.save(folder)
    return result


def learning_rate(config: DiffCConfig, epoch: int) -> float:
    """Return the learning rate of `epoch` (from 0): a cosine from `lr` that reaches `lr_min` after the last epoch."""
    return config.lr_min + (config.lr - config.lr_min) * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def epoch_batches(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Cut one permutation of ``range(n)`` into batches; a last batch of one joins the batch before it."""
    batches = list(torch.randperm(n, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat([batches[-1], last])
    return batches


def _train_epochs(
    model: DiffC,
    optimizer: torch.optim.Optimizer,
    config: DiffCConfig,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    history: list[EpochRecord],
    folder: Path | None,
    key: str,
    progress: bool,
) -> None:
    from tqdm import tqdm

    device = next(model.parameters()).device
    bar = tqdm(total=config.epochs, initial=len(history), desc="Diff-C", unit="epoch", disable=not progress)
    devices = [device] if device.type == "cuda" else []
    with bar, torch.random.fork_rng(devices=devices):
        for epoch in range(len(history), config.epochs):
            started = time.perf_counter()
            # Everything random in an epoch follows from (seed, epoch), so a resumed run needs no generator state.
            torch.manual_seed(config.seed * 1_000_003 + epoch + 1)
            lr = learning_rate(config, epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            train_loss, train_accuracy = _train_one(model, optimizer, config, train, device)
            test_loss, test_accuracy = _evaluate(model, config, test, device)
            seconds = time.perf_counter() - started
            history.append(
                EpochRecord(epoch + 1, lr, train_loss, train_accuracy, test_loss, test_accuracy, round(seconds, 3))
            )
            if folder is not None:
                save_checkpoint(folder, key, model, optimizer, history)
            bar.set_postfix(loss=f"{train_loss:.3f}", test=f"{100 * test_accuracy:.1f}%")
            bar.update()


def _train_one(
    model: DiffC,
    optimizer: torch.optim.Optimizer,
    config: DiffCConfig,
    train: tuple[Tensor, Tensor],
    device: torch.device,
) -> tuple[float, float]:
    maps, labels = train
    generator = torch.Generator().manual_seed(torch.initial_seed())
    model.train()
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    for rows in epoch_batches(len(maps), config.batch_size, generator):
        batch = maps[rows].to(device=device, dtype=torch.float32)
        if config.augmentation == "flip":
            mirrored = (torch.rand(len(rows), generator=generator) < 0.5).to(device)
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        target = labels[rows].to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(batch)
        loss = F.cross_entropy(logits.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(rows)
        correct += (logits.argmax(dim=1) == target).sum()
    mean_loss = float(loss_sum) / len(maps)
    if not math.isfinite(mean_loss):
        raise ValueError(
            f"Diff-C: the training loss became {mean_loss}: the maps hold NaN or infinity, "
            f"or lr={config.lr} is too high"
        )
    return mean_loss, float(correct) / len(maps)


@torch.no_grad()
def _evaluate(
    model: DiffC, config: DiffCConfig, test: tuple[Tensor, Tensor], device: torch.device
) -> tuple[float, float]:
    maps, labels = test
    model.eval()
    loss_sum, correct = 0.0, 0
    for start in range(0, len(maps), config.test_batch_size):
        stop = start + config.test_batch_size
        logits = model(maps[start:stop].to(device=device, dtype=torch.float32))
        target = labels[start:stop].to(device)
        loss_sum += float(F.cross_entropy(logits, target, reduction="sum"))
        correct += int((logits.argmax(dim=1) == target).sum())
    return loss_sum / len(maps), correct / len(maps)


def _result(
    model: DiffC,
    history: list[EpochRecord],
    train_labels: Tensor,
    test_labels: Tensor,
    predicted: Tensor,
    class_names: list[str] | None,
) -> DiffCResult:
    correct, total = int((predicted == test_labels).sum()), len(test_labels)
    best = max(history, key=lambda record: record.test_accuracy)
    frequent = int(torch.bincount(train_labels, minlength=model.n_classes).argmax())
    return DiffCResult(
        model=model,
        history=history,
        accuracy=correct / total,
        interval=accuracy_interval(correct, total),
        best_accuracy=best.test_accuracy,
        best_epoch=best.epoch,
        confusion=confusion_matrix(test_labels, predicted, model.n_classes),
        n_train=len(train_labels),
        n_test=total,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        chance=float((test_labels == frequent).double().mean()),
        class_names=class_names,
    )


def _checked_classes(
    train_maps: Tensor,
    train_labels: Tensor,
    test_maps: Tensor,
    test_labels: Tensor,
    n_classes: int | None,
    class_names: list[str] | None,
) -> int:
    for name, maps, labels, least in (
        ("train", train_maps, train_labels, 2),
        ("test", test_maps, test_labels, 1),
    ):
        if maps.ndim != 4 or not maps.is_floating_point():
            raise ValueError(
                f"train_diffc: {name}_maps has shape {list(maps.shape)} and dtype {maps.dtype}, "
                "expected floating-point maps [N, C, H, W] (pooled vectors are for the linear probe)"
            )
        if labels.shape != (len(maps),) or labels.is_floating_point():
            raise ValueError(
                f"train_diffc: {name}_labels has shape {list(labels.shape)} and dtype {labels.dtype}, "
                f"expected one integer for each of the {len(maps)} maps"
            )
        if len(maps) < least:
            raise ValueError(f"train_diffc: {len(maps)} {name} maps came, at least {least} are needed")
        if int(labels.min()) < 0:
            raise ValueError(
                f"train_diffc: {int((labels < 0).sum())} of the {name} labels are negative (-1 means no label): "
                "leave those maps out"
            )
    if train_maps.shape[1:] != test_maps.shape[1:]:
        raise ValueError(
            f"train_diffc: training maps are {list(train_maps.shape[1:])}, test maps {list(test_maps.shape[1:])}: "
            "they come from different layers or image sizes"
        )
    largest = max(int(train_labels.max()), int(test_labels.max()))
    n_classes = n_classes if n_classes is not None else len(class_names or []) or largest + 1
    if largest >= n_classes:
        raise ValueError(
            f"train_diffc: label {largest} came, but there are only {n_classes} classes (0 to {n_classes - 1})"
        )
    return n_classes

"""Training and evaluation of Diff-C on feature maps, cached or extracted as they are needed."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from revelio_fast import seeds
from revelio_fast.classifiers.checkpoint import data_key, load_checkpoint, save_checkpoint
from revelio_fast.classifiers.config import DiffCConfig
from revelio_fast.classifiers.map_classifier import MapClassifier
from revelio_fast.classifiers.map_source import CachedMaps, MapSource, epoch_batches
from revelio_fast.classifiers.results import DiffCResult, EpochRecord, confusion_matrix
from revelio_fast.statistics import wilson_interval


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
    features: dict[str, Any] | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> DiffCResult:
    """Train Diff-C on the maps of one layer and timestep, and test it after every epoch.

    Parameters
    ----------
    train_maps, test_maps : Tensor
        ``[N, C, H, W]``, any float dtype; one batch at a time is taken to the device.
    train_labels, test_labels : Tensor
        Integers ``[N]`` from 0 to ``n_classes - 1``.
    config : DiffCConfig, optional
        The paper's settings if left out.
    out_dir, n_classes, class_names, features, device, progress
        As in `train_on`.

    Returns
    -------
    DiffCResult

    Raises
    ------
    ValueError
        If shapes, labels or the checkpoint in `out_dir` do not fit.
    """
    config = config or DiffCConfig()
    train = _half("train", train_maps, train_labels, config.augmentation == "flip", config.seed)
    test = _half("test", test_maps, test_labels, False, config.seed)
    return train_on(
        train, test, config, out_dir=out_dir, n_classes=n_classes, class_names=class_names, features=features,
        device=device, progress=progress,
    )  # fmt: skip


def _half(name: str, maps: Tensor, labels: Tensor, mirror: bool, seed: int) -> CachedMaps:
    try:
        return CachedMaps(maps, labels, mirror=mirror, seed=seed)
    except ValueError as error:
        raise ValueError(f"train_diffc, {name} half: {error}") from None


def train_on(
    train: MapSource,
    test: MapSource,
    config: DiffCConfig | None = None,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    n_classes: int | None = None,
    class_names: list[str] | None = None,
    features: dict[str, Any] | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> DiffCResult:
    """Train the classifier that ``config.head`` names on maps from any source, and test it after every epoch.

    Parameters
    ----------
    train, test : MapSource
        `CachedMaps`, or maps extracted anew in every epoch (`OnlineMaps`). What the test source gives in epoch 0
        is what is tested in every epoch.
    config : DiffCConfig, optional
        The paper's settings if left out. Mirroring is the source's work.
    out_dir : path, optional
        Receives a checkpoint after each epoch, and at the end ``model/``, ``history.csv``, ``confusion.csv`` and
        ``metrics.json``. A second call with the same data and settings goes on after the last whole epoch and gives
        the weights an undisturbed run gives, bit for bit on the same machine and thread count.
    n_classes : int, optional
        By default one more than the largest label, or the number of `class_names`.
    class_names : list of str, optional
        Stored with the model and in the confusion matrix.
    features : dict, optional
        What the maps are (model, layer, timestep ...), stored with the model for `revelio_fast.load_classifier`.
    device : optional
        A CUDA device if there is one, else the CPU.
    progress : bool
        Show progress bars.

    Returns
    -------
    DiffCResult

    Raises
    ------
    ValueError
        If shapes, labels or the checkpoint in `out_dir` do not fit.
    """
    config = config or DiffCConfig()
    n_classes = _checked_classes(train, test, n_classes, class_names)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng():
        torch.manual_seed(seeds.derive(config.seed, "classifier.init"))
        kind = MapClassifier.kinds[config.head]
        model = kind(train.shape[0], n_classes, config.dropout, config.width, class_names).to(device)
    model.features = features
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    folder = Path(out_dir) if out_dir is not None else None
    history: list[EpochRecord] = []
    key = ""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        key = data_key(config, train, test)
        history = load_checkpoint(folder, key, model, optimizer)
    predicted = _train_epochs(model, optimizer, config, train, test, history, folder, key, progress)
    if predicted is None:
        predicted = _evaluate(model, config, test, device, progress)[1]
    result = _result(model.eval(), history, train.labels, test.labels, predicted, class_names)
    if folder is not None:
        result.save(folder)
    return result


def learning_rate(config: DiffCConfig, epoch: int) -> float:
    """Return the learning rate of `epoch` (from 0): a cosine from `lr` that reaches `last_lr` after the last epoch."""
    return config.last_lr + (config.lr - config.last_lr) * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def _train_epochs(
    model: MapClassifier,
    optimizer: torch.optim.Optimizer,
    config: DiffCConfig,
    train: MapSource,
    test: MapSource,
    history: list[EpochRecord],
    folder: Path | None,
    key: str,
    progress: bool,
) -> Tensor | None:
    """Train the epochs that `history` lacks, and return the last one's test predictions; None if it lacked none."""
    from revelio_fast.progress import tqdm

    device = next(model.parameters()).device
    bar = tqdm(total=config.epochs, initial=len(history), desc=model.title, unit="epoch", disable=not progress)
    devices = [device] if device.type == "cuda" else []
    predicted = None
    with bar, torch.random.fork_rng(devices=devices):
        for epoch in range(len(history), config.epochs):
            started = time.perf_counter()
            # Everything random in an epoch follows from (seed, epoch), so a resumed run needs no generator state.
            torch.manual_seed(seeds.derive(config.seed, "classifier.dropout", epoch))
            lr = learning_rate(config, epoch)
            for group in optimizer.param_groups:
                group["lr"] = lr
            train_loss, train_accuracy = _train_one(model, optimizer, config, train, epoch, device, progress)
            train_seconds = time.perf_counter() - started
            test_loss, predicted = _evaluate(model, config, test, device, progress)
            test_accuracy = float((predicted == test.labels).double().mean())
            seconds = time.perf_counter() - started
            history.append(
                EpochRecord(
                    epoch + 1, lr, train_loss, train_accuracy, test_loss, test_accuracy, round(train_seconds, 3),
                    round(seconds, 3),
                )
            )  # fmt: skip
            if folder is not None:
                save_checkpoint(folder, key, model, optimizer, history)
            bar.set_postfix(loss=f"{train_loss:.3f}", test=f"{100 * test_accuracy:.1f}%")
            bar.update()
    return predicted


def _train_one(
    model: MapClassifier,
    optimizer: torch.optim.Optimizer,
    config: DiffCConfig,
    train: MapSource,
    epoch: int,
    device: torch.device,
    progress: bool,
) -> tuple[float, float]:
    from revelio_fast.progress import tqdm

    n = len(train.labels)
    rows = epoch_batches(n, config.batch_size, seeds.generator(config.seed, "classifier.shuffle", epoch))
    model.train()
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    batches = zip(rows, train.batches(rows, epoch), strict=True)
    for batch, maps in tqdm(batches, total=len(rows), desc=f"epoch {epoch + 1}", leave=False, disable=not progress):
        target = train.labels[batch].to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(maps.to(device=device, dtype=torch.float32))
        loss = F.cross_entropy(logits.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(batch)
        correct += (logits.argmax(dim=1) == target).sum()
    mean_loss = float(loss_sum) / n
    if not math.isfinite(mean_loss):
        raise ValueError(
            f"{model.title}: the training loss became {mean_loss}: the maps hold NaN or infinity, "
            f"or lr={config.lr} is too high"
        )
    return mean_loss, float(correct) / n


@torch.no_grad()
def _evaluate(
    model: MapClassifier, config: DiffCConfig, test: MapSource, device: torch.device, progress: bool
) -> tuple[float, Tensor]:
    """Return the mean test loss and the predicted classes, int64 ``[N]``."""
    from revelio_fast.progress import tqdm

    rows = list(torch.arange(len(test.labels)).split(config.test_batch_size))
    model.eval()
    loss_sum, predicted = 0.0, []
    batches = zip(rows, test.batches(rows, 0), strict=True)
    for batch, maps in tqdm(batches, total=len(rows), desc="test", leave=False, disable=not progress):
        logits = model(maps.to(device=device, dtype=torch.float32))
        loss_sum += float(F.cross_entropy(logits, test.labels[batch].to(device), reduction="sum"))
        predicted.append(logits.argmax(dim=1).cpu())
    return loss_sum / len(test.labels), torch.cat(predicted)


def _result(
    model: MapClassifier,
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
        interval=wilson_interval(correct, total),
        best_accuracy=best.test_accuracy,
        best_epoch=best.epoch,
        confusion=confusion_matrix(test_labels, predicted, model.n_classes),
        n_train=len(train_labels),
        n_test=total,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        chance=float((test_labels == frequent).double().mean()),
        correct=predicted == test_labels,
        class_names=class_names,
    )


def _checked_classes(train: MapSource, test: MapSource, n_classes: int | None, class_names: list[str] | None) -> int:
    for name, half, least in (("train", train, 2), ("test", test, 1)):
        if len(half.labels) < least:
            raise ValueError(f"train_diffc: {len(half.labels)} {name} maps came, at least {least} are needed")
        if int(half.labels.min()) < 0:
            raise ValueError(
                f"train_diffc: {int((half.labels < 0).sum())} of the {name} labels are negative (-1 means no label): "
                "leave those maps out"
            )
    if train.shape != test.shape:
        raise ValueError(
            f"train_diffc: training maps are {list(train.shape)}, test maps {list(test.shape)}: "
            "they come from different layers or image sizes"
        )
    largest = max(int(train.labels.max()), int(test.labels.max()))
    n_classes = n_classes if n_classes is not None else len(class_names or []) or largest + 1
    if largest >= n_classes:
        raise ValueError(
            f"train_diffc: label {largest} came, but there are only {n_classes} classes (0 to {n_classes - 1})"
        )
    return n_classes

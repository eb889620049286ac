"""Diff-C's training: it learns, resumes bit for bit, keeps the paper's schedule, and refuses bad input in words."""

from __future__ import annotations

import csv
import json
import math

import pytest
import torch
from torch import Tensor

from revelio_fast.classifiers import DiffC, DiffCConfig, train_diffc
from revelio_fast.classifiers.map_source import epoch_batches
from revelio_fast.classifiers.results import confusion_matrix
from revelio_fast.classifiers.training import learning_rate

SMALL = DiffCConfig(epochs=3, batch_size=8, width=16, lr=1e-3, lr_min=1e-4)


def planted(n: int, seed: int, *, signal: float = 1.5, channels: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Noise maps in which class c raises channel c in a random patch."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(n, channels, 8, 8, generator=generator)
    labels = torch.arange(n) % classes
    for row in range(n):
        top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
        maps[row, labels[row], top : top + 4, left : left + 4] += signal
    return maps, labels


def test_it_learns_planted_classes_and_not_noise() -> None:
    train, test = planted(96, 1, signal=2.5), planted(60, 2, signal=2.5)
    result = train_diffc(
        *train, *test, DiffCConfig(epochs=10, batch_size=8, width=16, lr=2e-3, lr_min=1e-3), progress=False
    )
    assert result.accuracy > 0.9 and result.history[-1].train_loss < result.history[0].train_loss / 2
    assert result.interval[0] <= result.accuracy <= result.interval[1]
    assert result.confusion.sum() == 60 and int(result.confusion.diagonal().sum()) == round(result.accuracy * 60)
    noise_train, noise_test = planted(96, 1, signal=0.0), planted(300, 2, signal=0.0)
    noise = train_diffc(*noise_train, *noise_test, SMALL, progress=False)
    # Chance is 1/3; 300 trials have a standard deviation of 0.027, so 0.5 is six of them away.
    assert noise.accuracy < 0.5 and noise.chance == pytest.approx(1 / 3)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, interrupted_after_saves) -> None:
    train, test = planted(40, 1), planted(12, 2)
    config = DiffCConfig(epochs=4, batch_size=8, width=8, lr=1e-3, lr_min=1e-4, dropout=0.2)
    whole = train_diffc(*train, *test, config, out_dir=tmp_path / "whole", progress=False)

    with interrupted_after_saves(2):
        train_diffc(*train, *test, config, out_dir=tmp_path / "cut", progress=False)
    torch.manual_seed(99)
    resumed = train_diffc(*train, *test, config, out_dir=tmp_path / "cut", progress=False)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert [r.train_loss for r in whole.history] == [r.train_loss for r in resumed.history]
    weights = "model/model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "cut" / weights).read_bytes()


def test_a_finished_run_is_only_read(tmp_path) -> None:
    train, test = planted(24, 1), planted(12, 2)
    first = train_diffc(*train, *test, SMALL, out_dir=tmp_path, progress=False)
    again = train_diffc(*train, *test, SMALL, out_dir=tmp_path, progress=False)
    assert again.history == first.history and again.accuracy == first.accuracy


def test_a_checkpoint_of_other_settings_or_data_is_refused(tmp_path) -> None:
    train, test = planted(24, 1), planted(12, 2)
    train_diffc(*train, *test, SMALL, out_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match="other settings or other maps"):
        train_diffc(*train, *test, DiffCConfig(epochs=4, batch_size=8, width=16), out_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match="other settings or other maps"):
        train_diffc(*planted(24, 3), *test, SMALL, out_dir=tmp_path, progress=False)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        train_diffc(*train, *test, SMALL, out_dir=tmp_path, progress=False)


def test_the_files_say_what_the_result_says(tmp_path) -> None:
    result = train_diffc(
        *planted(24, 1), *planted(12, 2), SMALL, out_dir=tmp_path, class_names=["x", "y", "z"], progress=False
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["accuracy"] == result.accuracy and metrics["n_test"] == 12
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_accuracy"]) for row in rows] == [r.test_accuracy for r in result.history]
    with open(tmp_path / "confusion.csv") as file:
        table = list(csv.reader(file))
    assert table[0][1:] == ["x", "y", "z"]
    assert [[int(v) for v in row[1:]] for row in table[1:]] == result.confusion.tolist()
    assert DiffC.from_pretrained(tmp_path / "model").class_names == ["x", "y", "z"]


def test_the_callers_random_numbers_are_untouched() -> None:
    state = torch.get_rng_state()
    train_diffc(*planted(24, 1), *planted(12, 2), SMALL, progress=False)
    assert torch.equal(state, torch.get_rng_state())


def test_the_schedule_is_the_papers() -> None:
    config = DiffCConfig()
    assert (config.lr, config.batch_size, config.epochs, config.width, config.dropout) == (1e-4, 16, 30, 1024, 0.0)
    assert learning_rate(config, 0) == pytest.approx(1e-4)
    assert learning_rate(config, 15) == pytest.approx(7.5e-5)
    assert learning_rate(config, 30) == pytest.approx(5e-5)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-4), T_max=30, eta_min=5e-5
    )
    for epoch in range(30):
        assert math.isclose(learning_rate(config, epoch), expected.get_last_lr()[0], rel_tol=1e-9)
        expected.optimizer.step()
        expected.step()


@pytest.mark.parametrize("n, size", [(17, 16), (16, 16), (33, 16), (2, 16), (3, 2)])
def test_batches_cover_every_row_once_and_none_is_a_single(n: int, size: int) -> None:
    batches = epoch_batches(n, size, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(n))
    assert all(len(batch) > 1 for batch in batches)


def test_half_precision_and_memory_mapped_maps(tmp_path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    maps, labels = planted(96, 1, signal=2.5)
    save_file({"maps": maps.bfloat16()}, tmp_path / "maps.safetensors")
    with safe_open(tmp_path / "maps.safetensors", framework="pt") as file:
        mapped = file.get_tensor("maps")
    config = DiffCConfig(epochs=10, batch_size=8, width=16, lr=2e-3, lr_min=1e-3, precision="bf16", augmentation="none")
    result = train_diffc(mapped, labels, *planted(30, 2, signal=2.5), config, progress=False)
    assert result.accuracy > 0.8 and next(result.model.parameters()).dtype == torch.float32


def test_bad_input_is_named() -> None:
    maps, labels = planted(12, 1)
    with pytest.raises(ValueError, match=r"train half: .* shape \[12, 6\].*linear probe"):
        train_diffc(maps.mean((2, 3)), labels, maps, labels, SMALL, progress=False)
    with pytest.raises(ValueError, match=r"test half: The labels have .* one integer for each of the 12 maps"):
        train_diffc(maps, labels, maps, labels[:5], SMALL, progress=False)
    with pytest.raises(ValueError, match=r"dtype torch\.float32, expected one integer"):
        train_diffc(maps, labels.float(), maps, labels, SMALL, progress=False)
    with pytest.raises(ValueError, match="4 of the train labels are negative"):
        train_diffc(maps, torch.where(labels == 1, -1, labels), maps, labels, SMALL, progress=False)
    with pytest.raises(ValueError, match="different layers or image sizes"):
        train_diffc(maps, labels, maps[:, :, :4], labels, SMALL, progress=False)
    with pytest.raises(ValueError, match="label 2 came, but there are only 2 classes"):
        train_diffc(maps, labels, maps, labels, SMALL, n_classes=2, progress=False)
    with pytest.raises(ValueError, match="0 test maps came"):
        train_diffc(maps, labels, maps[:0], labels[:0], SMALL, progress=False)
    with pytest.raises(ValueError, match="training loss became nan"):
        train_diffc(torch.full_like(maps, torch.nan), labels, maps, labels, SMALL, progress=False)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": 1}, "batch_size must be a whole number of at least 2, got 1"),
        ({"dropout": 1.0}, "dropout must be a number of at least 0 and below 1, got 1.0"),
        ({"lr_min": 1.0}, "lr_min must not exceed lr = 0.0001, got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be a number of at least 0, got -1.0"),
        ({"augmentation": "crop"}, "augmentation must be one of 'flip', 'none', got 'crop'"),
        ({"precision": "int8"}, "precision must be one of 'fp32', 'bf16', got 'int8'"),
    ],
)
def test_bad_settings_are_named(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DiffCConfig(**settings)


def test_confusion() -> None:
    true, predicted = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 0])
    assert confusion_matrix(true, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]

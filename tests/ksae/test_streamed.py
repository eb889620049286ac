"""Training from disk: the same bits as from memory, after a kill too; bounded memory; damage met on the way."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from revelio_fast import ActivationStore, KSAEConfig, seeds, train_ksae
from revelio_fast.ksae import batches
from revelio_fast.ksae.batches import TrainingRows
from revelio_fast.ksae.row_sources import Features
from revelio_fast.store import StoreError, memory
from tests.ksae.data import planted

ROOT = Path(__file__).resolve().parents[2]
FILES = ["model/model.safetensors", "history.csv", "metrics.json", "checkpoint/step-00000060.safetensors"]


def small(**changes):
    common = dict(k=3, n_latents=48, steps=60, batch_size=50, warmup_steps=5, log_every=5, eval_every=20)
    return KSAEConfig(**(common | changes))


def stored(folder, count=330, dtype=torch.bfloat16, **changes):
    return ActivationStore.from_tensors(
        folder / "store", planted(count)[0].to(dtype), shard_rows=max(47, count // 20), **changes
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("changes", [{}, {"compat": "authors"}, {"val_fraction": 0.0}, {"aux_k": 4, "dead_after": 100}])
def test_the_same_files_from_disk_memory_and_a_tensor(tmp_path, dtype, changes):
    store = stored(tmp_path, dtype=dtype)
    x = store.features()
    for where in ("disk", "memory"):
        opened = ActivationStore.open(store.path)
        train_ksae(opened, small(data=where, **changes), out_dir=tmp_path / where, progress=False)
        assert (opened.held() is None) == (where == "disk")
    train_ksae(x, small(**changes), out_dir=tmp_path / "tensor", progress=False)
    for name in FILES:
        want = (tmp_path / "tensor" / name).read_bytes()
        assert (tmp_path / "disk" / name).read_bytes() == want, name
        assert (tmp_path / "memory" / name).read_bytes() == want, name


def test_batches_are_those_of_whole_permutations():
    """Two permutations, each from a stream of its own: which rows are held out, and the order of the others."""
    x = torch.arange(1003.0)[:, None]
    for holdout, keep_short in ((0.05, False), (0.3, True), (0.0, False)):
        got = TrainingRows(x, 100, 5, holdout, keep_short=keep_short)
        order = torch.randperm(1003, generator=seeds.generator(5, "ksae.validation"))
        held = round(1003 * holdout)
        training = order[held:].sort().values
        assert torch.equal(got.apart, order[:held].sort().values)
        for step in range(25):
            epoch, place = divmod(step, got.batches_per_epoch)
            order = torch.randperm(len(training), generator=seeds.generator(5, "ksae.shuffle", epoch))
            shuffled = training[order]
            assert torch.equal(got.batch(step), x[shuffled[place * 100 : (place + 1) * 100]])


def test_a_run_from_disk_that_is_killed_ends_with_the_same_bytes(tmp_path):
    store = stored(tmp_path, 2000)
    run = (
        "import sys, torch; from revelio_fast import ActivationStore, KSAEConfig, train_ksae;"
        "torch.set_num_threads(1);"
        "train_ksae(ActivationStore.open(sys.argv[1]), KSAEConfig(k=4, n_latents=64, steps=400, batch_size=200,"
        "warmup_steps=10, checkpoint_every=20, eval_every=50, data=sys.argv[3]), out_dir=sys.argv[2], progress=False)"
    )

    def start(folder, where):
        return subprocess.Popen([sys.executable, "-c", run, str(store.path), str(tmp_path / folder), where], cwd=ROOT)

    assert start("memory", "memory").wait(200) == 0
    process, deadline = start("disk", "disk"), time.monotonic() + 100
    while not list((tmp_path / "disk").glob("checkpoint/step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL, "the run ended before it could be killed"
    assert start("disk", "disk").wait(200) == 0
    for name in ("model/model.safetensors", "history.csv", "metrics.json"):
        assert (tmp_path / "disk" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes(), name


def test_a_batch_is_gathered_while_the_step_before_runs(tmp_path):
    taken = TrainingRows(stored(tmp_path), 50, 0, 0.0, where="disk")
    asked, take = [], taken.features.take

    def watched(positions):
        asked.append(len(positions))
        return take(positions)

    taken.features.take = watched
    with taken.batches(2, 5) as batches:
        for step in range(2, 5):
            x = next(batches)
            deadline = time.monotonic() + 20
            while len(asked) < min(step, 3) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(asked) == min(step, 3), "one batch ahead, no further"
            assert torch.equal(x, take(taken._order[step % 6 * 50 : (step % 6 + 1) * 50]))
        assert next(batches, None) is None


def test_a_shard_that_breaks_during_training_is_named(tmp_path):
    store = stored(tmp_path)
    taken = TrainingRows(store, 50, 0, 0.0, where="disk")
    (store.path / "shard-00003.safetensors").write_bytes(b"short")
    with (
        pytest.raises(StoreError, match=r"shard-00003.safetensors is truncated: 5 bytes"),
        taken.batches(0, 3) as batches,
    ):
        list(batches)
    with pytest.raises(StoreError, match=r"shard-00003.safetensors is truncated: 5 bytes"):
        train_ksae(store, small(data="disk"), progress=False)


def test_a_store_is_held_where_a_third_of_the_free_memory_holds_it(tmp_path, monkeypatch):
    store = stored(tmp_path)
    size = store.rows * store.d * 2
    for free, held in ((3 * size, True), (3 * size - 3, False)):
        monkeypatch.setattr(memory, "available_memory", lambda free=free: free)
        chosen = Features("data", ActivationStore.open(store.path))
        assert (chosen.held is not None) == held
    assert Features("data", ActivationStore.open(store.path), "memory").held.dtype == torch.bfloat16
    store.features()
    assert Features("data", store).held is store.features(), "what is in memory already is not read again"


def test_nan_rows_of_a_store_and_wrong_choices_are_named(tmp_path, monkeypatch):
    x = planted(9000)[0]
    x[5003, 2] = torch.nan
    monkeypatch.setattr(ActivationStore, "read", lambda self, positions: x[positions])
    store = stored(tmp_path, 9000)
    with pytest.raises(ValueError, match=r"data holds NaN or infinity, first in row 5003: remove such rows"):
        train_ksae(store, small(data="disk"), progress=False)
    with pytest.raises(ValueError, match=r"data must be one of 'auto', 'memory', 'disk', got 'ram'"):
        small(data="ram")


def test_a_validation_store_is_read_in_blocks(tmp_path):
    store = stored(tmp_path, 9000)
    given = train_ksae(store, small(data="disk"), validation=store, progress=False)
    x = store.features()
    held = train_ksae(x, small(), validation=x, progress=False)
    assert given.metrics["holdout_fvu"] == held.metrics["holdout_fvu"]
    x_hat = held.sae.decode(held.sae.encode(x))
    want = (x_hat - x).square().sum() / (x - x.mean(0)).square().sum()
    # two float32 sums of 144,000 squares in different orders
    assert given.metrics["holdout_fvu"] == pytest.approx(want.item(), rel=1e-4)


def test_no_more_rows_are_held_out_than_the_bound(monkeypatch):
    monkeypatch.setattr(batches, "MOST_HELD_OUT", 30)
    taken = TrainingRows(planted(1000)[0], 50, 0, 0.05)
    assert (len(taken.apart), taken.count) == (30, 970)


def test_means_are_those_of_float64():
    x = planted(9001)[0] + 100
    taken = TrainingRows(x, 50, 0, 0.1)
    training = torch.ones(9001, dtype=torch.bool)
    training[taken.apart] = False
    assert torch.equal(taken.mean, x[training].double().mean(0).float())
    assert torch.equal(taken.held_out.mean, x[taken.apart].double().mean(0).float())


def test_timings_cover_every_step_of_the_call(tmp_path):
    result = train_ksae(stored(tmp_path), small(data="disk"), progress=False)
    assert len(result.timing["wait"]) == len(result.timing["step"]) == 60
    assert all(0 <= wait < step for wait, step in zip(*result.timing.values(), strict=True))
    assert sum(result.timing["step"]) < result.metrics["seconds"]

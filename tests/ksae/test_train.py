"""train_ksae: resume after SIGKILL, held-out rows, counters, and what it refuses."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from revelio_fast import ActivationStore, KSAEConfig, KSparseAutoencoder, train_ksae
from revelio_fast.ksae.batches import TrainingRows
from revelio_fast.ksae.engines import take_step
from revelio_fast.ksae.evaluation import note_activity
from revelio_fast.ksae.state import TrainingState
from tests.ksae.data import planted

ROOT = Path(__file__).resolve().parents[2]
FILES = ["model/model.safetensors", "model/config.json", "history.csv", "metrics.json"]
RUN = """
import sys, torch
from revelio_fast import KSAEConfig, train_ksae
from tests.ksae.data import planted
torch.set_num_threads(1)
x, _ = planted(2000)
config = KSAEConfig(k=4, n_latents=64, steps=600, batch_size=200, warmup_steps=10, checkpoint_every=20, aux_k=4,
                    dead_after=500, engine=sys.argv[2], eval_every=50)
train_ksae(x, config, out_dir=sys.argv[1], progress=False)
"""


def small(**changes):
    return KSAEConfig(**(dict(k=3, n_latents=48, steps=30, batch_size=50, warmup_steps=5, log_every=5) | changes))


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, engine):
    def start(folder):
        return subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / folder), engine], cwd=ROOT)

    assert start("whole").wait(300) == 0
    for _ in range(2):
        process = start("killed")
        before = newest(tmp_path / "killed")
        deadline = time.monotonic() + 200
        while newest(tmp_path / "killed") <= before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (tmp_path / "killed" / "metrics.json").exists()
    assert start("killed").wait(300) == 0
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def newest(folder):
    return max((path.name for path in folder.glob("checkpoint/step-*.safetensors")), default="")


def test_a_finished_run_is_read_back(tmp_path):
    x, _ = planted(300)
    first = train_ksae(x, small(), out_dir=tmp_path, progress=False)
    stamp = (tmp_path / "checkpoint" / newest(tmp_path)).stat().st_mtime_ns
    again = train_ksae(x, small(), out_dir=tmp_path, progress=False)
    assert torch.equal(first.sae.W_enc, again.sae.W_enc)
    assert (tmp_path / "checkpoint" / newest(tmp_path)).stat().st_mtime_ns == stamp


def test_more_steps_continue_a_run(tmp_path):
    x, _ = planted(300)
    train_ksae(x, small(steps=20), out_dir=tmp_path / "two", progress=False)
    two = train_ksae(x, small(steps=30), out_dir=tmp_path / "two", progress=False)
    one = train_ksae(x, small(steps=30), progress=False)
    assert torch.equal(one.sae.W_dec, two.sae.W_dec)
    assert (one.history["step"], one.history["fvu"]) == (two.history["step"], two.history["fvu"])


def test_other_settings_or_widths_do_not_continue_a_run(tmp_path):
    x, _ = planted(300)
    train_ksae(x, small(), out_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"was written with lr=0.0004, this run asks for 0.01: use the same settings"):
        train_ksae(x, small(lr=0.01), out_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"W_enc has shape \[48, 16\], the data needs \[48, 8\]"):
        train_ksae(x[:, :8], small(), out_dir=tmp_path, progress=False)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    x, _ = planted(300)
    want = train_ksae(x, small(), progress=False)
    train_ksae(x, small(steps=20, checkpoint_every=10), out_dir=tmp_path, progress=False)
    path = tmp_path / "checkpoint" / newest(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(
        UserWarning, match=r"step-00000020.safetensors is damaged .*: going on from the checkpoint before"
    ):
        got = train_ksae(x, small(), out_dir=tmp_path, progress=False)
    assert torch.equal(want.sae.W_enc, got.sae.W_enc)


def test_a_store_gives_the_same_as_its_features(tmp_path):
    x, _ = planted(300)
    store = ActivationStore.from_tensors(tmp_path / "store", x, shard_rows=70)
    from_store = train_ksae(store, small(), progress=False)
    assert torch.equal(from_store.sae.W_dec, train_ksae(x, small(), progress=False).sae.W_dec)


def test_held_out_rows_are_never_trained_on():
    x = torch.arange(40.0)[:, None].repeat(1, 2)
    rows = TrainingRows(x, batch_size=7, seed=3, val_fraction=0.25)
    seen = torch.cat([rows.batch(step)[:, 0] for step in range(40)]).unique()
    held_out = torch.cat(list(rows.held_out.blocks()))[:, 0]
    assert len(rows.apart) == len(held_out) == 10
    assert not set(seen.tolist()) & set(held_out.tolist())
    assert rows.mean[0] == seen.mean() and rows.held_out.mean[0] == held_out.mean()
    assert len(seen) == 30


def test_batches_do_not_depend_on_where_a_run_starts():
    x, _ = planted(100)
    straight = TrainingRows(x, 30, seed=1, val_fraction=0.1)
    batches = [straight.batch(step) for step in range(9)]
    assert torch.equal(TrainingRows(x, 30, seed=1, val_fraction=0.1).batch(8), batches[8])


def test_fewer_rows_than_a_batch_are_taken_whole():
    x, _ = planted(60)
    result = train_ksae(x, small(batch_size=8192, val_fraction=0.0), progress=False)
    assert result.metrics["rows_seen"] == 60 * 30


def test_official_semantics_keep_the_short_last_batch():
    x, _ = planted(120)
    paper = train_ksae(x, small(steps=6, val_fraction=0.0), progress=False).metrics["rows_seen"]
    official = train_ksae(x, small(steps=6, val_fraction=0.0, compat="authors"), progress=False).metrics["rows_seen"]
    assert (paper, official) == (300, 240)


@pytest.mark.parametrize("aux_k", [0, 8])
@pytest.mark.parametrize("engine", ["fused", "autograd"])
@pytest.mark.parametrize(("k", "batch"), [(3, 10), (30, 10)])
def test_l0_and_dead_latents_are_those_of_the_codes(monkeypatch, engine, aux_k, k, batch):
    codes = []

    def watched(*arguments):
        result = take_step(*arguments)
        codes.append(result.code)
        return result

    monkeypatch.setattr("revelio_fast.ksae.stepper.take_step", watched)
    x, _ = planted(400)
    changes = dict(steps=40, dead_after=4 * batch, log_every=1, val_fraction=0.0, relu=True, aux_k=aux_k)
    history = train_ksae(x, small(engine=engine, k=k, batch_size=batch, **changes), progress=False).history
    for step in range(40):
        alive = {
            latent
            for code in codes[max(0, step - 3) : step + 1]  # dead_after is 4 batches
            for row, values in zip(code.indices.tolist(), code.values.tolist(), strict=True)
            for latent, value in zip(row, values, strict=True)
            if value != 0
        }
        assert history["dead"][step] == (48 - len(alive) if step >= 3 else 0)
        nonzero = sum(value != 0 for values in codes[step].values.tolist() for value in values)
        assert history["l0"][step] == nonzero / batch
    if k == 3:
        assert max(history["dead"]) > 0
    else:
        assert 0 < min(history["l0"]) < 30, "the clamp must leave rows with fewer than k active latents"


def dead_after_training(aux_k):
    """40 of 64 latents start with a bias that keeps them out of every code; how many are out after 500 steps?"""
    x, _ = planted(3000, directions=64)
    sae = KSparseAutoencoder(16, n_latents=64, k=3)
    sae.b_enc.data[24:] = -2.0
    sae.b_pre.data.copy_(x.mean(0))
    state, config = TrainingState(sae), KSAEConfig(k=3, n_latents=64, lr=2e-3, warmup_steps=1, aux_k=aux_k)
    for _ in range(500):
        dead = (state.rows_since_active >= 600).nonzero().flatten() if aux_k else torch.empty(0, dtype=torch.int64)
        result = take_step(state, x[torch.randperm(len(x))[:200]], config, dead)
        state.step += 1
        note_activity(state, result.code)
    return int((state.rows_since_active >= 600).sum())


def test_the_auxiliary_loss_revives_dead_latents():
    assert dead_after_training(aux_k=0) == 40
    assert dead_after_training(aux_k=16) < 10


def test_held_out_fvu_of_given_rows():
    x, _ = planted(500)
    result = train_ksae(x[:400], small(steps=200, lr=2e-3), validation=x[400:], progress=False)
    x_hat = result.sae.decode(result.sae.encode(x[400:]))
    want = (x_hat - x[400:]).square().sum() / (x[400:] - x[400:].mean(0)).square().sum()
    assert result.metrics["holdout_fvu"] == pytest.approx(want.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (torch.randn(20, 8), {"k": 49}, r"k must not exceed n_latents = 48, got 49"),
        (torch.randn(20, 8), {"n_latents": None, "k": 99, "expansion_factor": 2}, r"k must not exceed the 16 latents"),
        (torch.randn(20), {}, r"data must hold features \[rows >= 2, d >= 1\], got shape \[20\]"),
        (torch.zeros(20, 8, dtype=torch.int64), {}, r"data must be floating point features, got torch.int64"),
        (
            torch.randn(20, 8).index_fill(0, torch.tensor([13]), torch.nan),
            {},
            r"holds NaN or infinity, first in row 13",
        ),
        (torch.randn(20, 8), {"engine": "jax"}, r"engine must be one of 'fused', 'autograd', got 'jax'"),
        (torch.randn(20, 8), {"lr": -1}, r"lr must be a number above 0, got -1"),
        (
            torch.randn(20, 8),
            {"val_fraction": 1.0},
            r"val_fraction must be a number of at least 0 and below 1",
        ),
        (torch.randn(20, 8), {"steps": 0}, r"steps must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_inputs_are_named(data, changes, message):
    with pytest.raises(ValueError, match=message):
        train_ksae(data, small(**changes), progress=False)


def test_validation_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"validation has features of width 7, the training data 8"):
        train_ksae(torch.randn(20, 8), small(), validation=torch.randn(20, 7), progress=False)

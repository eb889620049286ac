"""What must not pass silently: other data on resume, damaged checkpoints, divergence, hostile or odd .pt files."""

import argparse
import csv
import json
import math
import pathlib
import pickle
import re
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from revelio_fast import KSAEConfig, KSparseAutoencoder, load_sae, train_ksae
from revelio_fast.ksae.batches import TrainingRows
from revelio_fast.ksae.engines import take_step
from revelio_fast.ksae.evaluation import official_statistics
from revelio_fast.ksae.state import TrainingState
from revelio_fast.ksae.sums import mean_rows
from tests.ksae.data import planted

SMALL = dict(k=3, n_latents=48, steps=20, batch_size=50, warmup_steps=5, log_every=5, checkpoint_every=10)


def train(x, folder=None, **changes):
    return train_ksae(x, KSAEConfig(**(SMALL | changes)), out_dir=folder, progress=False)


def weights(n=12, d=4):
    return {
        "W_enc": torch.randn(d, n),
        "b_enc": torch.zeros(n),
        "W_dec": torch.randn(n, d),
        "b_dec": torch.zeros(d),
    }


def test_a_checkpoint_with_the_old_names_of_settings_is_gone_on_with(tmp_path):
    """Version 0.1 wrote ``holdout`` and ``semantics``; a run that differs in one of them is still refused."""
    x, changes = planted(300, 8, 24, seed=1)[0], dict(val_fraction=0.2, compat="authors")
    whole = train(x, tmp_path / "whole", **changes)
    train(x, tmp_path / "cut", **changes | {"steps": 10})
    (path,) = (tmp_path / "cut" / "checkpoint").glob("step-*.safetensors")
    with safe_open(path, framework="pt") as file:
        training = json.loads(file.metadata()["training"])
    config = training["config"]
    config["holdout"], config["semantics"] = config.pop("val_fraction"), "official"
    del config["compat"]
    save_file(load_file(path), path, metadata={"training": json.dumps(training)})
    with pytest.raises(ValueError, match=r"written with val_fraction=0.2, this run asks for 0.1"):
        train(x, tmp_path / "cut", **changes | {"val_fraction": 0.1})
    again = train(x, tmp_path / "cut", **changes)
    assert torch.equal(again.sae.W_dec, whole.sae.W_dec)


def test_a_run_does_not_go_on_with_other_features_of_the_same_shape(tmp_path):
    train(planted(300, seed=1)[0], tmp_path)
    with pytest.raises(ValueError, match=r"written by a run on other features of the same shape"):
        train(planted(300, seed=2)[0], tmp_path, steps=40)


def test_damaged_checkpoints_are_named_and_never_silently_restarted(tmp_path):
    x, _ = planted(300)
    train(x, tmp_path)
    newest, older = sorted((tmp_path / "checkpoint").glob("step-*"), reverse=True)
    newest.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step-00000020.safetensors is damaged"):
        train(x, tmp_path)
    for path in (newest, older):
        path.write_bytes(pickle.dumps({"step": 3}))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        train(x, tmp_path)


def test_a_longer_run_is_not_passed_off_as_a_shorter_one(tmp_path):
    x, _ = planted(300)
    train(x, tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match=r"is past the 10 steps this run asks for: ask for at least 20"):
        train(x, tmp_path, steps=10)
    assert (tmp_path / "metrics.json").read_bytes() == before


def test_a_run_does_not_go_on_with_another_split(tmp_path):
    x, _ = planted(300)
    train_ksae(x, KSAEConfig(**SMALL), validation=planted(50, seed=4)[0], out_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"trained on 300 of the rows, this one would train on 285: pass validation="):
        train(x, tmp_path, steps=40)


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    x, _ = planted(300)
    want = train(x, steps=30)
    train(x, tmp_path)
    newest = max((tmp_path / "checkpoint").glob("step-*"))
    damaged = bytearray(newest.read_bytes())
    damaged[-5] ^= 1
    newest.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"step-00000020.safetensors is damaged \(.* checksum"):
        got = train(x, tmp_path, steps=30)
    assert torch.equal(got.sae.W_enc, want.sae.W_enc)


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_a_diverged_state_is_not_saved_between_logged_steps(tmp_path, engine):
    x, _ = planted(300)
    with pytest.raises(ValueError, match=r"training diverged: the FVU of step \d+ is (nan|inf)\."):
        train(x, tmp_path, lr=1e30, engine=engine, log_every=100, checkpoint_every=1, steps=50)
    for path in (tmp_path / "checkpoint").glob("step-*"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path


def test_weights_are_looked_at_before_they_are_saved(tmp_path, monkeypatch):
    """The loss of a step is that before its update, and does not show what the update broke."""

    def overflowing(state, *arguments):
        result = take_step(state, *arguments)
        if state.step == 19:  # steps done before this one
            state.rows.b_enc[3] = torch.inf
        return result

    monkeypatch.setattr("revelio_fast.ksae.stepper.take_step", overflowing)
    for folder in (tmp_path, None):
        with pytest.raises(ValueError, match=r"training diverged: b_enc is not finite after step 20\. Lower lr"):
            train(planted(300)[0], folder)
    assert [path.name for path in (tmp_path / "checkpoint").glob("step-*")] == ["step-00000010.safetensors"]
    assert not (tmp_path / "model").exists()


def test_any_whole_seed_trains_and_a_negative_one_is_named():
    train(planted(100)[0], seed=2**40)
    with pytest.raises(ValueError, match=r"seed must be a whole number of at least 0 and below .*, got -1"):
        KSAEConfig(seed=-1)


def test_data_of_the_same_seed_shares_no_numbers_with_the_initial_weights():
    directions = torch.nn.functional.normalize(torch.randn(32, 16, generator=torch.Generator().manual_seed(3)))
    decoder = train(planted(100)[0], seed=3, steps=1, lr=1e-9).sae.W_dec
    # The nearest of 48 x 32 independent pairs of directions in 16 dimensions has a cosine of about 0.8.
    assert (decoder @ directions.T).max() < 0.99


def test_divergence_stops_before_it_is_saved(tmp_path):
    x, _ = planted(300)
    with pytest.raises(ValueError, match=r"training diverged: the FVU of step \d+ is (nan|inf)\. Lower lr"):
        train(x, tmp_path, lr=1e30, log_every=1)
    assert not list((tmp_path / "checkpoint").glob("step-*"))


def test_the_history_can_be_read_while_the_run_goes_on(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("revelio_fast.ksae.train.held_out_fvu", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(planted(300)[0], tmp_path, steps=40, eval_every=15, val_fraction=0.2)
    with (tmp_path / "history.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 5, 10]


def test_official_bias_is_the_mean_of_a_batch_that_is_then_passed_over(monkeypatch):
    x, _ = planted(150)
    seen = []
    monkeypatch.setattr(
        "revelio_fast.ksae.train.official_statistics",
        lambda state, x, _: seen.append((state.sae.b_pre.clone(), x)) or {},
    )
    train(x, compat="authors", val_fraction=0.0, steps=1)
    (b_pre, first), rows = seen[0], TrainingRows(x, 50, 0, 0.0, keep_short=True)
    assert torch.equal(b_pre, mean_rows(rows.batch(0)))
    assert torch.equal(first, rows.batch(1))


def test_authors_semantics_train_on_all_rows_unless_asked(tmp_path):
    x, _ = planted(300)
    result = train(x, tmp_path / "all", compat="authors", steps=6)
    assert result.metrics["rows_seen"] == 300 and math.isnan(result.metrics["holdout_fvu"]) and not result.notes
    asked = train(x, compat="authors", val_fraction=0.1, steps=6)
    assert asked.metrics["rows_seen"] == 270
    assert 0 < asked.metrics["holdout_fvu"] < 10


def test_official_counts_survive_a_resume(tmp_path):
    x, _ = planted(300)
    changes = dict(compat="authors", log_every=3)
    train(x, tmp_path / "parts", steps=9, **changes)
    train(x, tmp_path / "parts", steps=20, **changes)
    train(x, tmp_path / "whole", steps=20, **changes)
    names = [tmp_path / part / "checkpoint/step-00000020.safetensors" for part in ("parts", "whole")]
    counts = [load_file(name)["official_active"] for name in names]
    assert torch.equal(*counts) and counts[0].max() == 50 * 8


@pytest.mark.parametrize(
    ("rows", "validation", "reason"),
    [
        (
            torch.randn(12, 16),
            None,
            r"a held-out FVU needs at least 10 rows, and 0.05 of 12 are 1: all rows were train",
        ),
        (torch.randn(60, 16), torch.randn(9, 16), r"a held-out FVU needs at least 10 rows, and validation has 9"),
        (torch.full((300, 16), 0.3), None, r"the held-out rows are all equal: there is no variance to explain"),
    ],
)
def test_a_held_out_fvu_without_meaning_is_left_out_with_a_reason(tmp_path, rows, validation, reason):
    config = KSAEConfig(**SMALL)
    result = train_ksae(rows, config, validation=validation, out_dir=tmp_path, progress=False)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert math.isnan(result.metrics["holdout_fvu"]) and written["metrics"]["holdout_fvu"] is None
    assert all(math.isnan(value) for value in result.history["holdout_fvu"])
    assert written["notes"] == result.notes and re.search(reason, result.notes["holdout_fvu"])


def test_few_rows_are_all_trained_on():
    assert TrainingRows(torch.randn(12, 4), 50, 0, 0.05).count == 12
    assert TrainingRows(torch.randn(200, 4), 50, 0, 0.05).count == 190


def test_a_batch_of_one_row_is_refused():
    with pytest.raises(ValueError, match=r"a batch of one row has no variance to explain: 90 training rows in batches"):
        train(planted(100)[0], batch_size=1, val_fraction=0.1)


def test_official_explained_variance_is_uncentred():
    x, _ = planted(150)
    sae = KSparseAutoencoder(16, n_latents=48, k=3)
    x_hat = sae(x).x_hat
    want = torch.stack([1 - (r - h).square().sum() / r.square().sum() for r, h in zip(x, x_hat, strict=True)]).mean()
    state = TrainingState(sae)
    state.count_official_activity()
    assert official_statistics(state, x, 150)["official_explained_variance"] == pytest.approx(want.item(), rel=1e-4)


def test_encoding_features_of_another_width_names_both():
    with pytest.raises(ValueError, match=r"x has features of width 9, this k-SAE was trained on width 8"):
        KSparseAutoencoder(8, n_latents=16, k=2).encode(torch.randn(3, 9))


@pytest.mark.parametrize(("key", "value"), [("k", '"3"'), ("n_latents", "-4"), ("relu", '"yes"'), ("d_in", "true")])
def test_wrong_types_in_the_settings_are_named(tmp_path, key, value):
    sae = KSparseAutoencoder(8, n_latents=16, k=2)
    sae.save_pretrained(tmp_path)
    was = {"k": "2", "n_latents": "16", "relu": "false", "d_in": "8"}[key]
    text = (tmp_path / "config.json").read_text()
    assert f'"{key}": {was}' in text
    (tmp_path / "config.json").write_text(text.replace(f'"{key}": {was}', f'"{key}": {value}'))
    with pytest.raises(ValueError, match=rf"config.json is damaged: {key} must be"):
        load_sae(tmp_path)


def test_the_weights_file_of_a_folder_is_read(tmp_path):
    sae = KSparseAutoencoder(8, n_latents=16, k=2)
    sae.save_pretrained(tmp_path)
    assert torch.equal(load_sae(tmp_path / "model.safetensors").W_enc, sae.W_enc)


def test_settings_with_paths_and_sets_are_read(tmp_path):
    cfg = argparse.Namespace(
        k=3, path=pathlib.Path("a/b"), names={"x", "y"}, dtype=torch.float32, device=torch.device("cpu")
    )
    state = weights()
    torch.save({"cfg": cfg, "state_dict": state}, tmp_path / "sae.pt")
    sae = load_sae(tmp_path / "sae.pt")
    assert sae.k == 3
    assert torch.equal(sae.W_enc, state["W_enc"].T)


class NoFields:
    """A settings object with an empty state, which a pickle restores without calling anything."""

    k = 3


@pytest.mark.parametrize(
    ("cfg", "changes", "message"),
    [
        (NoFields(), {}, r"does not say how many latents are active: pass k="),
        ({"k": True}, {}, r"does not say how many latents are active: pass k="),
        ({"k": 13}, {}, r"sae.pt: k must lie between 1 and the number of latents = 12, got 13"),
        ({"k": 2}, {"W_enc": NoFields()}, r"sae.pt is not a Revelio checkpoint: .*W_enc \("),
        ({"k": 2}, {"W_dec": [1.0, 2.0]}, r"sae.pt is not a Revelio checkpoint: .*W_dec \("),
        ({"k": 2}, {"W_dec": torch.zeros(12)}, r"sae.pt: W_dec has shape \[12\], expected \[latents, width\]"),
        ({"k": 2}, {"W_enc": torch.zeros(12, 4)}, r"sae.pt: W_enc has shape \[4, 12\], expected \[12, 4\]"),
    ],
)
def test_odd_official_files_are_named(tmp_path, cfg, changes, message):
    torch.save({"cfg": cfg, "state_dict": weights() | changes}, tmp_path / "sae.pt")
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path / "sae.pt")


def test_a_damaged_zip_directory_is_named(tmp_path):
    torch.save({"cfg": {"k": 2}, "state_dict": weights()}, tmp_path / "sae.pt")
    data = (tmp_path / "sae.pt").read_bytes()
    assert b"PK\x01\x02" in data
    (tmp_path / "sae.pt").write_bytes(data.replace(b"PK\x01\x02", b"XXXX", 1))
    with pytest.raises(ValueError, match=r"sae.pt is damaged: .*central directory"):
        load_sae(tmp_path / "sae.pt")


@pytest.mark.parametrize("call", [(eval, ("1/0",)), (exec, ("raise SystemExit",)), (getattr, (int, "real"))])
def test_builtins_are_refused_too(tmp_path, call):
    class Evil:
        def __reduce__(self):
            return call

    torch.save({"cfg": Evil(), "state_dict": weights()}, tmp_path / "sae.pt")
    with pytest.raises(ValueError, match=r"was refused: it asks for (builtins|__builtin__)\.\w+, which could execute"):
        load_sae(tmp_path / "sae.pt")


def leave_a_mark(path):
    pathlib.Path(path).touch()


def test_a_foreign_function_is_never_called(tmp_path):
    """A function of an importable package becomes an inert record."""

    class Evil:
        def __reduce__(self):
            return leave_a_mark, (str(tmp_path / "mark"),)

    torch.save({"cfg": {"k": 2, "extra": Evil()}, "state_dict": weights()}, tmp_path / "sae.pt")
    assert load_sae(tmp_path / "sae.pt").k == 2
    assert not (tmp_path / "mark").exists()
    pickle.loads(pickle.dumps(Evil()))
    assert (tmp_path / "mark").exists(), "the file would have acted if it had been unpickled"


def test_a_compressed_archive_is_refused(tmp_path):
    torch.save({"cfg": {"k": 2}, "state_dict": weights()}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(tmp_path / "sae.pt", "w") as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"was refused: it is compressed"):
        load_sae(tmp_path / "sae.pt")


def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path):
    state = weights() | {"b_enc": torch.zeros(1).expand(2**40)}
    torch.save({"cfg": {"k": 2}, "state_dict": state}, tmp_path / "sae.pt")
    with pytest.raises(ValueError, match=r"claims more than the 1 stored numbers"):
        load_sae(tmp_path / "sae.pt")

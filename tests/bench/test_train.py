"""`python -m bench train`: its store, its figures, and its table, at a size of milliseconds."""

import json
from pathlib import Path

import pytest
import torch

import bench.measure
from bench import planted_store as planted
from bench import readme, train
from revelio_fast.store import StoreError


def in_this_process(work, task):
    answer = Path(task["store"]).parent / "answer.json"
    getattr(train, work)(task, str(answer))
    return json.loads(answer.read_text())


def test_the_command_trains_saves_resumes_and_compares(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench.measure, "busy_share", lambda: 0.0)
    monkeypatch.setattr(train, "_in_process", in_this_process)
    size = [
        "--steps",
        "30",
        "--batch",
        "64",
        "--d",
        "32",
        "--expansion",
        "8",
        "--k",
        "4",
        "--store",
        f"{tmp_path / 's'}",
    ]
    train.main([*size, "--baseline", "--json", f"{tmp_path / 'train.json'}"])
    found = json.loads((tmp_path / "train.json").read_text())
    (row,) = found["rows"]
    assert row["shape"] == "B=64 d=32 n=256 k=4" and row["steps"] == 30 and row["store_rows"] == 31 * 64
    assert 0 < row["step_s_10"] <= row["step_s"] <= row["step_s_90"] and 0 <= row["wait_share"] < 1
    assert row["fvu_last"] < row["fvu_first"] and 0 < row["mean_best_cosine"] < 1
    assert 0 < row["peak_mb"] <= row["peak_mb_with_checkpoint"] <= row["peak_mb_resumed"]  # of one process, here
    assert row["dense_step_s"] > 0
    shown = train.table(found)
    assert shown in capsys.readouterr().out
    hours = 10_240 * 8192 / 64 * row["step_s"] / 3600
    assert f"**extrapolated**: 10,240 steps of 8192 rows (the authors' default), steps alone | {hours:.2f} h" in shown

    results = tmp_path / "bench" / "results"
    results.mkdir(parents=True)
    (results / "train.json").write_text((tmp_path / "train.json").read_text())
    (tmp_path / "README.md").write_text("a <!-- bench:train -->old<!-- /bench --> z")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "FILES", ("README.md",))
    readme.main()
    assert shown in (tmp_path / "README.md").read_text()


def test_a_store_that_was_cut_off_is_continued_and_a_whole_one_reused(monkeypatch, tmp_path):
    monkeypatch.setattr(planted, "ROWS_OF_A_BLOCK", 100)
    monkeypatch.setattr(planted, "ROWS_OF_A_SHARD", 200)
    whole, speed = planted.planted_store(tmp_path / "whole", 950, 8, progress=False)
    assert (whole.rows, whole.dtype) == (950, torch.bfloat16) and speed > 0
    block = planted.block

    def cut_off(number, directions):
        if number == 5:
            raise KeyboardInterrupt
        return block(number, directions)

    monkeypatch.setattr(planted, "block", cut_off)
    with pytest.raises(KeyboardInterrupt):
        planted.planted_store(tmp_path / "cut", 950, 8, progress=False)
    monkeypatch.setattr(planted, "block", block)
    again, _ = planted.planted_store(tmp_path / "cut", 950, 8, progress=False)
    assert torch.equal(again.features(), whole.features())
    monkeypatch.setattr(planted, "block", None)
    assert planted.planted_store(tmp_path / "cut", 950, 8, progress=False)[0].rows == 950
    with pytest.raises(StoreError, match=r"cut holds another store .* give --store another folder, or delete it"):
        planted.planted_store(tmp_path / "cut", 960, 8, progress=False)


def test_rows_are_near_combinations_of_the_planted_directions():
    directions = planted.dictionary(512)
    rows = planted.block(3, directions)
    # a row's own part has energy of about 32 x 1.08, the noise 512 x 0.0004
    assert 25 < rows.square().sum(1).mean() < 50
    assert not torch.equal(rows, planted.block(4, directions))
    assert torch.equal(rows, planted.block(3, directions))
    # a decoder that holds some of the directions has cosine 1 with these and at most a random one's with others
    cosines = planted.best_cosines(directions[:100] * 3, 512)
    assert (cosines[:100] > 0.999).all() and cosines[100:].max() < 0.9

"""Training at 1, 2 and 3 threads writes the same bytes, and a run that goes on with another number of threads too."""

import contextlib

import pytest
import torch

from revelio_fast import KSAEConfig, train_ksae
from tests.ksae.data import planted

FILES = ["model/model.safetensors", "model/config.json", "history.csv", "metrics.json"]
# Sums over a batch and over the held-out rows exceed 32,768 elements, from where torch divides a sum among threads.
X = planted(3000, d=48, directions=96)[0]
COMMON = dict(k=4, n_latents=192, batch_size=800, lr=2e-3, warmup_steps=5, val_fraction=0.3, log_every=5, eval_every=20)


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(folder, count, **changes):
    with threads(count):
        train_ksae(X, KSAEConfig(**(COMMON | changes)), out_dir=folder, progress=False)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize(
    "changes", [{}, {"aux_k": 8, "dead_after": 800}, {"engine": "autograd"}, {"compat": "authors"}], ids=str
)
@pytest.mark.parametrize("steps", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_any_number_of_threads_writes_the_same_bytes(tmp_path, steps, changes):
    want = run(tmp_path / "one", 1, steps=steps, **changes)
    for count in (2, 3):
        got = run(tmp_path / str(count), count, steps=steps, **changes)
        assert [name for name in FILES if got[name] != want[name]] == [], f"{count} threads"
    if changes.get("aux_k"):
        assert b"0.0" not in {row.split(b",")[5] for row in want["history.csv"].splitlines()[-3:]}, "AuxK never began"


def test_a_run_goes_on_with_another_number_of_threads(tmp_path):
    want = run(tmp_path / "whole", 1, steps=60)
    run(tmp_path / "parts", 2, steps=20)
    run(tmp_path / "parts", 3, steps=40)
    assert run(tmp_path / "parts", 2, steps=60) == want

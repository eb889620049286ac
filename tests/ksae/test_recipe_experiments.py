"""The experiments behind the recipes: resumed without running anything twice, and shown in the docs as recorded."""

import json

import pytest
import torch

from revelio_fast import KSAEConfig
from tools.recipes import __main__ as experiments
from tools.recipes.grid import BY_WIDTH, START
from tools.recipes.measure import measure
from tools.recipes.table import tables, with_tables


def test_the_tables_of_the_docs_are_those_of_the_record():
    page = experiments.PAGE.read_text()
    runs = json.loads(experiments.RECORD.read_text())["runs"]
    assert with_tables(page, tables(runs)) == page
    assert "not run" not in page


def test_the_recipe_is_what_was_tried():
    assert KSAEConfig(recipe="best") == KSAEConfig(**BY_WIDTH)
    assert KSAEConfig(**START, recipe="best") != KSAEConfig(recipe="best")


def test_a_killed_search_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    asked = []

    def measured(task, settings, seed, folder):
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append((task, seed))
        return {"heldout_fvu": 0.5, "unused": 0.1, "cpu_seconds": 1.0}

    monkeypatch.setattr(experiments, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        experiments.try_all(tmp_path / "record.json", tmp_path, ["lr"])
    assert len(json.loads((tmp_path / "record.json").read_text())["runs"]) == 7
    first, asked[:] = list(asked), []
    with pytest.raises(KeyboardInterrupt):
        experiments.try_all(tmp_path / "record.json", tmp_path, ["lr"])
    assert not set(first) & set(asked[:5]), "the same task and seed of the same settings ran again"


def test_a_training_is_measured(monkeypatch):
    monkeypatch.setattr("tools.recipes.tasks.PLANTED_ROWS", 400)
    before = torch.get_num_threads()
    found = measure("planted x8, 1,500 steps", START | {"steps": 3, "warmup_steps": 1}, 0, None)
    assert torch.get_num_threads() == before
    assert 0 < found["heldout_fvu"] < 10 and 0 <= found["unused"] <= 1 and found["recovered"] == 0
    assert found["lr"] == START["lr"]

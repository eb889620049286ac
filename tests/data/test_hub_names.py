"""What is taken for the name of something on the Hub: a mistyped path is not, and a Hub out of reach is asked once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from revelio_fast.data import SourceError, open_source
from revelio_fast.data.hub_id import is_hub_id
from revelio_fast.models import ModelError, layer_table


@pytest.mark.parametrize("text", ["owner/name", "stable-diffusion-v1-5/sd.1_5"])
def test_an_id_of_the_hub(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize("text", ["name", "photos/train", "./a", "/a/b", "~/a", "a/b/c", "a/", "../b", ""])
def test_what_is_no_id(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id(text)


@pytest.mark.parametrize("spec", ["photos/trian", "photos"])
def test_a_mistyped_path_is_not_looked_up(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", asked)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    (tmp_path / "photos").mkdir() if "/" in spec else None
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=rf"There is no file or folder {spec}\. A data set .* is named owner/name"):
        open_source(spec)
    with pytest.raises(ModelError, match=f"There is no model folder {spec}"):
        layer_table(spec)


UNREACHABLE = """
from revelio_fast.data import open_source
try:
    open_source("owner/name")
except ValueError as error:
    print(error)
"""


def test_a_hub_out_of_reach_is_asked_once(tmp_path: Path) -> None:
    """Left alone, the library makes six attempts, with 23 s between them, and says so each time."""
    pytest.importorskip("datasets")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    run = subprocess.run([sys.executable, "-c", UNREACHABLE], env=os.environ | nowhere, capture_output=True, text=True)
    assert "'owner/name' is neither a file, a folder" in run.stdout and "refused" in run.stdout, run.stderr
    assert "Retry" not in run.stderr


def test_a_relative_and_an_absolute_path_are_one_source(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(class_folder.parent)
    relative, absolute = open_source(class_folder.name), open_source(class_folder)
    assert relative.name == absolute.name
    assert [item.path for item in relative] == [item.path for item in absolute]

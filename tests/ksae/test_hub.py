"""Upload and download through huggingface_hub, whose two network calls are recorded instead of made."""

import shutil
import sys

import pytest
import torch

from revelio_fast import KSparseAutoencoder, load_sae

# Files with names of their own, of all formats: nothing else of a repository is downloaded.
KNOWN = ["activation_scaler.json", "ae.pt", "cfg.json", "config.json", "model.safetensors", "sae.safetensors",
         "sae_weights.safetensors", "state_dict.pth"]  # fmt: skip
huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that stands for the Hub's storage; returns the list of calls."""
    calls = []

    class Api:
        def create_repo(self, repository, **options):
            calls.append(("create", repository, options))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append(("upload", repo_id, commit_message))
            shutil.copytree(folder_path, tmp_path / repo_id)
            return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(repository, *, revision, allow_patterns):
        calls.append(("download", repository, revision, sorted(allow_patterns)))
        return str(tmp_path / repository)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_what_is_uploaded_comes_back(hub):
    sae = KSparseAutoencoder(8, n_latents=24, k=3, relu=True)
    assert sae.push_to_hub("me/sae", private=True, message="first") == "https://hub/me/sae/commit/1"
    back = load_sae("me/sae")
    assert (back.k, back.relu, back.d_in, back.n_latents) == (3, True, 8, 24)
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), sae.parameters(), strict=True))
    KSparseAutoencoder.from_pretrained("me/sae", revision="v1")
    assert hub == [
        ("create", "me/sae", {"private": True, "exist_ok": True}),
        ("upload", "me/sae", "first"),
        ("download", "me/sae", None, KNOWN),
        ("download", "me/sae", "v1", KNOWN),
    ]


def test_a_folder_and_a_file_in_a_repository(hub, tmp_path):
    sae = KSparseAutoencoder(8, n_latents=24, k=3, relu=True)
    sae.save_as(tmp_path / "them/saes/layers.5", "sparsify")
    assert load_sae("them/saes/layers.5").k == 3
    inside = ["layers.5", *(f"layers.5/{name}" for name in KNOWN)]
    assert hub == [("download", "them/saes", None, sorted(inside))]
    with pytest.raises(FileNotFoundError, match=r"the Hub repository 'them/saes' has no layers.6"):
        load_sae("them/saes/layers.6")
    with pytest.raises(FileNotFoundError, match=r"the Hub repository 'them/saes' has no x/y.pt"):
        load_sae("them/saes/x/y.pt")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'revelio-fast\[models\]'"):
        KSparseAutoencoder(8, n_latents=24, k=3).push_to_hub("me/sae")
    with pytest.raises(ImportError, match=r"pip install 'revelio-fast\[models\]'"):
        load_sae("me/sae")


def test_a_model_that_cannot_be_fetched(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match=r"'me/sae' is no local folder, .*\(ConnectionError: no network\)$"):
        load_sae("me/sae")

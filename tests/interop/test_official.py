"""Saving and loading: our folder, the authors' .pt file, and files that are refused."""

import dataclasses
import gzip
import os
import pickle

import pytest
import torch

from revelio_fast import KSparseAutoencoder, load_sae
from revelio_fast.interop import write_official


@dataclasses.dataclass
class AuthorsConfig:
    """As the authors pickle their settings beside the weights."""

    k: int = 5
    device: str = "cuda"
    dtype: torch.dtype = torch.float32


class Malicious:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def model():
    torch.manual_seed(1)
    sae = KSparseAutoencoder(8, n_latents=24, k=5, relu=True)
    sae.b_enc.data.normal_()
    sae.b_pre.data.normal_()
    return sae


def authors_state(sae):
    return {
        "W_enc": sae.W_enc.data.T.contiguous(),
        "b_enc": sae.b_enc.data,
        "W_dec": sae.W_dec.data,
        "b_dec": sae.b_pre.data,
    }


def same(a, b):
    return all(torch.equal(a.state_dict()[name], tensor) for name, tensor in b.state_dict().items())


def test_our_folder_round_trip(tmp_path):
    sae = model()
    sae.save_pretrained(tmp_path)
    loaded = load_sae(tmp_path)
    assert same(loaded, sae) and (loaded.k, loaded.relu) == (5, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_training_folder_is_read_too(tmp_path):
    model().save_pretrained(tmp_path / "model")
    assert same(load_sae(tmp_path), model())


def test_official_round_trip(tmp_path):
    sae = model()
    write_official(sae, tmp_path / "sae.pt")
    loaded = load_sae(tmp_path / "sae.pt")
    assert same(loaded, sae) and loaded.k == 5
    state = torch.load(tmp_path / "sae.pt", weights_only=True)["state_dict"]
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "W_enc": (8, 24), "b_enc": (24,), "W_dec": (24, 8), "b_dec": (8,),
    }  # fmt: skip


def test_official_file_with_a_pickled_settings_object(tmp_path):
    torch.save({"cfg": AuthorsConfig(), "state_dict": authors_state(model())}, tmp_path / "sae.pt")
    loaded = load_sae(tmp_path / "sae.pt")
    assert same(loaded, model()) and loaded.k == 5


def test_official_file_that_does_not_say_k(tmp_path):
    torch.save({"state_dict": authors_state(model())}, tmp_path / "sae.pt")
    with pytest.raises(ValueError, match=r"does not say how many latents are active: pass k="):
        load_sae(tmp_path / "sae.pt")
    assert load_sae(tmp_path / "sae.pt", k=3).k == 3


def test_a_malicious_file_is_refused_and_does_nothing(tmp_path):
    marker = tmp_path / "was-here"
    torch.save({"cfg": Malicious(marker), "state_dict": authors_state(model())}, tmp_path / "sae.pt")
    with pytest.raises(ValueError, match=r"was refused: it asks for posix.system, which could execute code"):
        load_sae(tmp_path / "sae.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(ValueError, match=r"bare pickles are never loaded"):
        load_sae(tmp_path / "bare.pt")
    assert not marker.exists()


def test_other_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing.pt"):
        load_sae(tmp_path / "missing.pt")
    with pytest.raises(FileNotFoundError, match=r"neither a folder nor the name of a Hub repository"):
        load_sae(tmp_path / "missing")
    with gzip.open(tmp_path / "sae.pkl.gz", "wb") as file:
        pickle.dump({}, file)
    with pytest.raises(ValueError, match=r"\.pkl\.gz variant is a bare pickle"):
        load_sae(tmp_path / "sae.pkl.gz")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"is not a Revelio checkpoint: .* found \['weights'\]"):
        load_sae(tmp_path / "other.pt")
    torch.save({"cfg": {"k": 2}, "state_dict": authors_state(model())}, tmp_path / "cut.pt")
    data = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut.pt"):
        load_sae(tmp_path / "cut.pt")
    with pytest.raises(FileNotFoundError, match=r"holds no config.json"):
        (tmp_path / "empty").mkdir()
        load_sae(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("config.json", lambda data: data[:20], r"config.json is damaged"),
        ("config.json", lambda data: b"{}", r"config.json is damaged \('d_in'\)"),
        ("model.safetensors", lambda data: data[:200], r"is not a readable safetensors file"),
        ("model.safetensors", lambda data: pickle.dumps({}), r"is not a readable safetensors file"),
        ("config.json", lambda data: data.replace(b": 24", b": 23"), r"shape \[24, 8\], expected \[23, 8\]"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path, name, damage, message):
    model().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path)

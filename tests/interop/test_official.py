"""Saving and loading: our folder, the authors' .pt file, and files that are refused."""

import copy
import dataclasses
import gzip
import os
import pickle
import resource
import zipfile
from collections import OrderedDict

import pytest
import torch

from revelio_fast import KSparseAutoencoder, load_sae
from revelio_fast.interop import write_official
from revelio_fast.interop.inert_pickle import LEGACY_START


@dataclasses.dataclass
class AuthorsConfig:
    """As the authors pickle their settings beside the weights."""

    k: int = 5
    device: str = "cuda"
    dtype: torch.dtype = torch.float32


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function, arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Nested(Calls):
    """Pickled as a storage is, with these bytes in it."""

    def __init__(self, data):
        start = LEGACY_START + pickle.dumps(1001, protocol=2) + pickle.dumps({"little_endian": True}, protocol=2)
        super().__init__(torch.storage._load_from_bytes, (start + data,))


class Malicious:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def model(relu=False):
    torch.manual_seed(1)
    sae = KSparseAutoencoder(8, n_latents=24, k=5, relu=relu)
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
    sae = model(relu=True)
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
    with pytest.raises(ValueError, match=r"a bare pickle, and those are never loaded"):
        load_sae(tmp_path / "bare.pt")
    with gzip.open(tmp_path / "sae.pkl.gz", "wb") as file:
        pickle.dump({"cfg": Malicious(marker), "state_dict": authors_state(model())}, file)
    with pytest.raises(ValueError, match=r"was refused: it asks for posix.system, which could execute code"):
        load_sae(tmp_path / "sae.pkl.gz")
    nested = torch._utils._rebuild_tensor_v2, (Nested(pickle.dumps(Malicious(marker))), 0, (1,), (1,), False, {})
    with gzip.open(tmp_path / "nested.pkl.gz", "wb") as file:
        pickle.dump({"state_dict": Calls(*nested)}, file)
    with pytest.raises(ValueError, match=r"was refused: it asks for posix.system, which could execute code"):
        load_sae(tmp_path / "nested.pkl.gz")
    assert not marker.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gzip_variant(tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in authors_state(model()).items()}
    with gzip.open(tmp_path / "sae.pkl.gz", "wb") as file:
        pickle.dump({"cfg": AuthorsConfig(), "state_dict": OrderedDict(state)}, file)
    loaded = load_sae(tmp_path / "sae.pkl.gz")
    assert loaded.k == 5 and torch.equal(loaded.W_enc, state["W_enc"].T.float())
    write_official(model(), tmp_path / "ours.pkl.gz")
    assert same(load_sae(tmp_path / "ours.pkl.gz"), model())


def test_files_from_before_the_zip_format(tmp_path):
    saved = {"cfg": AuthorsConfig(), "state_dict": authors_state(model())}
    torch.save(saved, tmp_path / "sae.pt", _use_new_zipfile_serialization=False)
    assert same(load_sae(tmp_path / "sae.pt"), model())
    data = (tmp_path / "sae.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"cut.pt was refused: storage \d+ does not have the \d+ numbers it claims"):
        load_sae(tmp_path / "cut.pt")


def test_many_tensors_of_one_storage_take_its_memory_once(tmp_path):
    """3,000 aliases of 4 MB took 12 GB; the limit leaves 200 MB, beyond what reading maps by itself."""
    weights = torch.zeros(2**20)
    state = {**authors_state(model()), **{f"alias {i}": weights.view(2**10, 2**10) for i in range(3000)}}
    torch.save({"cfg": {"k": 5}, "state_dict": state}, tmp_path / "sae.pt")
    assert (tmp_path / "sae.pt").stat().st_size < 2**23
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert same(load_sae(tmp_path / "sae.pt"), model())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10


def test_a_gzip_bomb_is_refused(tmp_path):
    with gzip.open(tmp_path / "sae.pkl.gz", "wb") as file:
        pickle.dump({"state_dict": {str(i): bytes(2**24) for i in range(12)}}, file)
    with pytest.raises(ValueError, match=r"was refused: it unpacks to more than 100 times its size"):
        load_sae(tmp_path / "sae.pkl.gz")


def test_members_that_overlap_are_refused(tmp_path):
    torch.save({"state_dict": authors_state(model())}, tmp_path / "sae.pt")
    with zipfile.ZipFile(tmp_path / "sae.pt", "a") as archive:
        first = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
        for i in range(50):
            alias = copy.copy(first)
            alias.filename = first.filename[:-1] + str(100 + i)
            archive.filelist.append(alias)
            archive.NameToInfo[alias.filename] = alias
        archive._didModify = True
    with pytest.raises(ValueError, match=r"was refused: its members overlap"):
        load_sae(tmp_path / "sae.pt")


def test_other_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing.pt"):
        load_sae(tmp_path / "missing.pt")
    with pytest.raises(FileNotFoundError, match=r"neither a folder nor the name of a Hub repository"):
        load_sae(tmp_path / "missing")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"is not a Revelio checkpoint: .* it is a dictionary of weights \[3\]"):
        load_sae(tmp_path / "other.pt", format="authors")
    torch.save({"cfg": {"k": 2}, "state_dict": authors_state(model())}, tmp_path / "cut.pt")
    data = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut.pt"):
        load_sae(tmp_path / "cut.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is a folder with no files: that is none of the known formats"):
        load_sae(tmp_path / "empty")
    model().save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config.json"):
        load_sae(tmp_path / "half")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("config.json", lambda data: data[:20], r"config.json is damaged"),
        ("config.json", lambda data: b"{}", r"config.json is damaged \('d_in'\)"),
        ("config.json", lambda data: b"[]", r"config.json is damaged: expected a JSON object, found list"),
        ("config.json", lambda data: data.replace(b"ksae/1", b"ksae/9"), r"the format 'revelio_fast.ksae/9'"),
        ("config.json", lambda data: data.replace(b"ksae/1", b"ksae/2"), r"config.json is damaged \('semantics'\)"),
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

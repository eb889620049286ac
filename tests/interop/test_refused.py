"""Files that several formats would read, that none can, and that hold something else than they seem to."""

import json
import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from revelio_fast import KSparseAutoencoder
from revelio_fast.interop import FORMATS
from revelio_fast.ksae.semantics import Semantics
from tests.interop.test_formats import FIXTURES


def test_the_same_tensors_of_two_classes_are_ambiguous(tmp_path):
    (tmp_path / "ae.pt").write_bytes((FIXTURES / "dictionary_learning_topk" / "saved" / "ae.pt").read_bytes())
    with pytest.raises(ValueError, match=r"without a config.json .* pass rule='topk' or rule='threshold'"):
        KSparseAutoencoder.from_pretrained(tmp_path)
    assert KSparseAutoencoder.from_pretrained(tmp_path, rule="topk").semantics.rule == "topk"
    assert KSparseAutoencoder.from_pretrained(tmp_path / "ae.pt", rule="threshold").semantics.rule == "threshold"


def test_a_file_that_two_formats_read_differently(tmp_path):
    state = torch.load(FIXTURES / "sdxl_unbox" / "saved" / "state_dict.pth", weights_only=True)["state_dict"]
    torch.save(state, tmp_path / "sae.pt")
    with pytest.raises(ValueError, match=r"dictionary of pre_bias \[8\], .* openai and sdxl_unbox read that"):
        KSparseAutoencoder.from_pretrained(tmp_path / "sae.pt")
    assert KSparseAutoencoder.from_pretrained(tmp_path / "sae.pt", format="openai").semantics.rule == "threshold"
    assert KSparseAutoencoder.from_pretrained(tmp_path / "sae.pt", format="sdxl-unbox", k=4).k == 4
    with pytest.raises(ValueError, match=r"no config.json beside it that says how many latents are active: pass k="):
        KSparseAutoencoder.from_pretrained(tmp_path / "sae.pt", format="sdxl_unbox")


def test_a_folder_of_two_formats(tmp_path):
    for name in ("saelens_topk", "sparsify"):
        for file in (FIXTURES / name / "saved").iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=r"cfg.json, sae.safetensors, .*: saelens and sparsify read that differently"):
        KSparseAutoencoder.from_pretrained(tmp_path)


def test_foreign_files_are_named(tmp_path):
    torch.save({"weights": torch.zeros(3, 2), "deep": {"w": torch.zeros(2)}, "n": 4}, tmp_path / "other.pt")
    message = r"other.pt is a dictionary of weights \[3, 2\], deep \{w \[2\]\}, n \(int\): that is none of the known"
    with pytest.raises(ValueError, match=message):
        KSparseAutoencoder.from_pretrained(tmp_path / "other.pt")
    for format in FORMATS.keys() - {"revelio_fast", "saelens", "sparsify"}:
        with pytest.raises(ValueError, match=r"other.pt (is (not|no)|has)"):
            KSparseAutoencoder.from_pretrained(tmp_path / "other.pt", format=format, k=1)
    with pytest.raises(ValueError, match=r"format must be auto or one of revelio_fast, authors, .*, got 'gpt'"):
        KSparseAutoencoder.from_pretrained(tmp_path / "other.pt", format="gpt")
    with pytest.raises(ValueError, match=r"format must be auto or one of"):
        KSparseAutoencoder(4, n_latents=8, k=2).save_as(tmp_path, "gpt")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"is a folder with more.pt, notes.txt, other.pt: that is none"):
        (tmp_path / "more.pt").write_bytes((tmp_path / "other.pt").read_bytes())
        KSparseAutoencoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "file", "key", "value", "message"),
    [
        (
            "dictionary_learning_topk",
            "ae.pt",
            "decoder.weight",
            [1, 2],
            r"not of the format dictionary_learning, or dam",
        ),
        (
            "dictionary_learning_matryoshka",
            "ae.pt",
            "group_sizes",
            "four",
            r"not of the format dictionary_learning, or",
        ),
        ("dictionary_learning_topk", "ae.pt", "b_dec", [1, 2], r"b_pre is no tensor, but a list"),
        ("openai_topk", "autoencoder.pt", "encoder.weight", "x", r"is no tensor, but a str"),
        ("openai_topk", "autoencoder.pt", "activation_state_dict", 3, r"not of the format openai, or damaged"),
        ("openai_topk", "autoencoder.pt", "latent_bias", torch.zeros(3), r"b_enc has shape \[3\], expected \[16\]"),
        ("overcomplete_topk", "sae.pt", "dictionary._weights", 1.0, r"not of the format overcomplete, or damaged"),
    ],
)
def test_other_things_behind_the_names(tmp_path, name, file, key, value, message):
    saved = FIXTURES / name / "saved"
    state = torch.load(saved / file, weights_only=True)
    if (saved / "config.json").is_file():
        (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    torch.save(dict(state) | {key: value}, tmp_path / file)
    options = {"k": 3} if name.startswith("overcomplete") else {}
    with pytest.raises(ValueError, match=message):
        KSparseAutoencoder.from_pretrained(tmp_path / file, **options)


def test_settings_that_are_missing_or_odd(tmp_path):
    folder = edited(tmp_path, "sparsify", k="ten")
    with pytest.raises(ValueError, match=r"k must be a whole number, got 'ten'"):
        KSparseAutoencoder.from_pretrained(folder)
    (folder / "cfg.json").unlink()
    with pytest.raises(ValueError, match=r"is not of the format sparsify, or damaged \(FileNotFoundError"):
        KSparseAutoencoder.from_pretrained(folder)


def test_a_pickled_module_of_overcomplete_is_refused(tmp_path, monkeypatch):
    for name in ("overcomplete", "overcomplete.sae", "overcomplete.sae.topk_sae"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    kind = type("TopKSAE", (torch.nn.Module,), {"__module__": "overcomplete.sae.topk_sae"})
    sys.modules["overcomplete.sae.topk_sae"].TopKSAE = kind
    sae = kind()
    sae.layer = torch.nn.Linear(3, 2)
    torch.save(sae, tmp_path / "sae.pt")
    with pytest.raises(ValueError, match=r"a pickled overcomplete.*TopKSAE, and .* torch.save\(sae.state_dict\(\)"):
        KSparseAutoencoder.from_pretrained(tmp_path / "sae.pt")


def edited(tmp_path, name, rows=None, **cfg):
    """A copy of a fixture with other settings and further tensors."""
    for file in (FIXTURES / name / "saved").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    found = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(found | cfg))
    if rows:
        weights = next(tmp_path.glob("*.safetensors"))
        save_file(load_file(weights) | rows, weights)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("saelens_topk", {"architecture": "gated"}, r"has the architecture 'gated'; read are topk, abstopk"),
        ("saelens_topk", {"normalize_activations": "covariance_whitening"}, r"normalises activations by 'covariance_"),
        ("saelens_topk", {"reshape_activations": "hook_z"}, r"reads attention outputs head by head"),
        ("saelens_pre_6", {"activation_fn_str": "tanh-relu"}, r"has the activation function 'tanh-relu'"),
        ("saelens_pre_6", {"hook_name": "blocks.0.attn.hook_z"}, r"reads attention outputs head by head"),
        ("saelens_topk", {"k": None}, r"k must be a whole number, got None"),
        ("saelens_topk", {"rows": {"scaling_factor": torch.full((16,), 2.0)}}, r"fine-tuned with scaling factors"),
        ("sparsify", {"transcode": True}, r"is a transcoder or has a skip connection"),
        ("sparsify", {"rows": {"W_skip": torch.zeros(8, 8)}}, r"is a transcoder or has a skip connection"),
        ("sparsify", {"activation": "groupmax"}, r"has \{'activation': 'groupmax'\}; read is the activation"),
    ],
)
def test_what_cannot_be_computed_is_refused(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message):
        KSparseAutoencoder.from_pretrained(edited(tmp_path, name, **changes))


def test_layer_norm_of_saeuron(tmp_path):
    folder = edited(tmp_path, "sparsify", input_unit_norm=True, batch_topk=True)
    sae = KSparseAutoencoder.from_pretrained(folder)
    assert sae.semantics == Semantics("topk", "before", input_norm="layer_norm")
    with pytest.raises(ValueError, match=r"the format sparsify goes with input normalisation none"):
        sae.save_as(tmp_path / "again", "sparsify")


def test_an_unknown_scale_is_said(tmp_path):
    folder = edited(tmp_path, "saelens_topk", normalize_activations="expected_average_only_in")
    with pytest.warns(UserWarning, match=r"scaled to norm sqrt\(d\) on average, and does not say by which factor"):
        assert KSparseAutoencoder.from_pretrained(folder).semantics.input_scale == 1

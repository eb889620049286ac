"""Every format: files that the real libraries wrote (fixtures/), and what is written back."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from revelio_fast import KSparseAutoencoder
from revelio_fast.interop import FORMATS
from revelio_fast.ksae.semantics import Semantics
from tests.interop.oracle import FLOAT32, closeness, dense

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


def fixture(name):
    """A fixture's autoencoder, and the features, codes and reconstructions of the library that wrote it."""
    about = json.loads((FIXTURES / name / "about.json").read_text())
    expected = load_file(FIXTURES / name / "expected.safetensors")
    return KSparseAutoencoder.from_pretrained(FIXTURES / name / about["path"], **about["options"]), expected


def library(name):
    """The format of a fixture."""
    return next(format for format in FORMATS if name.startswith(format))


def outputs(sae, x):
    code = sae.encode(x)
    return dense(code, sae.n_latents), sae.decode(code, x)


def agree(found, expected, tolerance=FLOAT32):
    for one, other in zip(found, expected, strict=True):
        assert closeness(one, other) < tolerance
    assert torch.equal(found[0] != 0, expected[0] != 0)


def equal(a, b):
    """Whether two autoencoders are the same to the bit, but for what their files say besides."""
    tensors = a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items()
    )
    return tensors and (a.k, a.semantics) == (b.k, b.semantics)


def changed(sae, **fields):
    sae.semantics = dataclasses.replace(sae.semantics, **fields)
    return sae


def test_there_are_fixtures_of_every_format():
    assert {library(name) for name in NAMES} == FORMATS.keys() - {"revelio_fast"}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_library_wrote_computes_what_it_computed(name):
    sae, expected = fixture(name)
    assert bool((expected["z"] != 0).any())
    agree(outputs(sae, expected["x"]), (expected["z"], expected["x_hat"]))


@pytest.mark.parametrize("name", NAMES)
def test_our_folder_keeps_everything(name, tmp_path):
    sae, _ = fixture(name)
    sae.save_as(tmp_path / "ours", "revelio_fast")
    again = KSparseAutoencoder.from_pretrained(tmp_path / "ours")
    assert equal(again, sae) and again.metadata == sae.metadata


# What the library of a fixture has no file for: overcomplete's threshold is not in its state_dict.
NOT_WRITTEN = {"overcomplete_batchtopk": r"overcomplete has no rule 'threshold'"}
# Written back in other words: folded into the weights, or, by overcomplete, normalised again whenever it is used.
IN_OTHER_WORDS = {
    "overcomplete_topk": {},
    "overcomplete_untied": {},
    "saelens_topk_scaled": {"input_scale": 1.0, "rescale_by_decoder_norm": False},
    "dictionary_learning_backup": {"input_scale": 1.0},
}


@pytest.mark.parametrize("name", NAMES)
def test_the_librarys_own_format_round_trips(name, tmp_path):
    sae, expected = fixture(name)
    if name in NOT_WRITTEN:
        with pytest.raises(ValueError, match=NOT_WRITTEN[name]):
            sae.save_as(tmp_path, library(name))
        return
    sae.save_as(tmp_path, library(name))
    again = KSparseAutoencoder.from_pretrained(tmp_path, k=None if sae.semantics.rule == "threshold" else sae.k)
    agree(outputs(again, expected["x"]), (expected["z"], expected["x_hat"]))
    if name in IN_OTHER_WORDS:
        assert again.semantics == dataclasses.replace(sae.semantics, **IN_OTHER_WORDS[name])
    else:
        assert equal(again, sae)
    said = sae.metadata.get(library(name), {})
    assert again.metadata.get(library(name), {}).items() >= said.items()


# Which formats can express which semantics; k is known, b_pre is not zero, decoder rows have any norm.
EXPRESSED = {
    Semantics(): {"authors"},
    Semantics(relu="after"): {"saelens", "sparsify", "dictionary_learning", "sdxl_unbox"},
    Semantics(relu="before", subtract_b_pre=False): {"saelens", "sparsify", "dictionary_learning", "sdxl_unbox"},
    Semantics(relu="after", rescale_by_decoder_norm=True, input_scale=0.4): {
        "saelens", "sparsify", "dictionary_learning", "sdxl_unbox",
    },
    Semantics(relu="after", input_norm="layer_norm"): {"saelens", "openai"},
    Semantics(relu="none", input_norm="layer_norm"): {"openai"},
    Semantics(relu="after", input_norm="rms_norm"): {"saelens"},
    Semantics("threshold", "before", input_scale=3.0): {"saelens", "dictionary_learning"},
    Semantics("threshold", "before", groups=(5, 35)): {"saelens", "dictionary_learning"},
    Semantics("batch_topk", "before"): {"saelens"},
    Semantics("batch_topk", "before", groups=(5, 35)): {"saelens"},
    Semantics("abs_topk"): {"saelens"},
}  # fmt: skip


@pytest.mark.parametrize("how", EXPRESSED, ids=lambda how: how.describe(6))
def test_a_format_writes_the_same_or_refuses(how, tmp_path):
    torch.manual_seed(0)
    sae = KSparseAutoencoder(12, n_latents=40, k=6, semantics=how)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape))
        if sae.threshold is not None:
            sae.threshold.fill_(1.5)
    x = torch.randn(30, 12) * 2
    written = set()
    for format in FORMATS:
        try:
            sae.save_as(tmp_path / format, format)
        except ValueError as error:
            assert f"the format {format}" in str(error) and not list((tmp_path / format).glob("*"))
            continue
        again = KSparseAutoencoder.from_pretrained(tmp_path / format)
        agree(outputs(again, x), outputs(sae, x))
        written.add(format)
    assert written - {"revelio_fast"} == EXPRESSED[how] and "revelio_fast" in written


def test_overcomplete_takes_unit_rows_without_b_pre(tmp_path):
    sae = KSparseAutoencoder(12, n_latents=40, k=6, relu=True)
    sae.save_as(tmp_path / "sae.pt", "overcomplete")
    again = KSparseAutoencoder.from_pretrained(tmp_path / "sae.pt", k=6)
    x = torch.randn(30, 12)
    agree(outputs(again, x), outputs(sae, x))
    sae.b_pre.data.fill_(1)
    with pytest.raises(ValueError, match=r"overcomplete has no b_pre"):
        sae.save_as(tmp_path / "sae.pt", "overcomplete")


def test_openai_relu_is_a_threshold_of_zero(tmp_path):
    sae = KSparseAutoencoder(12, n_latents=40, k=6, semantics=Semantics("threshold", "before"))
    sae.save_as(tmp_path / "sae.pt", "openai")
    x = torch.randn(30, 12)
    agree(outputs(KSparseAutoencoder.from_pretrained(tmp_path / "sae.pt"), x), outputs(sae, x))
    sae.threshold[3] = 0.1
    with pytest.raises(ValueError, match=r"openai has no thresholds"):
        sae.save_as(tmp_path / "sae.pt", "openai")


def test_the_authors_format_refuses_a_relu(tmp_path):
    sae = KSparseAutoencoder(8, n_latents=24, k=5, relu=True)
    with pytest.raises(ValueError, match=r"clamps its values at zero and the format authors never does"):
        sae.save_as(tmp_path / "sae.pt", "authors")
    changed(sae, relu="none").save_as(tmp_path / "sae.pt", "authors")


def test_one_threshold_for_all_latents(tmp_path):
    sae, _ = fixture("saelens_jumprelu")
    sae.k = 4
    with pytest.raises(ValueError, match=r"dictionary_learning has one threshold for all latents, .* has 0 to 12"):
        sae.save_as(tmp_path, "dictionary_learning")


def test_formats_that_must_say_k(tmp_path):
    sae, _ = fixture("saelens_batchtopk_inference")
    with pytest.raises(ValueError, match=r"says how many .*, this autoencoder has k=None: set sae.k"):
        sae.save_as(tmp_path, "dictionary_learning")
    sae.k = 10
    sae.save_as(tmp_path, "dictionary_learning")
    assert KSparseAutoencoder.from_pretrained(tmp_path).k == 10


def test_a_rule_or_k_against_the_file():
    name = FIXTURES / "saelens_batchtopk" / "saved"
    sae = KSparseAutoencoder.from_pretrained(name, rule="threshold")
    assert (sae.semantics.rule, sae.threshold.unique().tolist(), sae.k) == ("threshold", [6.0], 10)
    assert KSparseAutoencoder.from_pretrained(name, k=2.5).k == 2.5
    assert KSparseAutoencoder.from_pretrained(FIXTURES / "authors" / "saved", k=3).k == 3
    with pytest.raises(ValueError, match=r"says its thresholds, 6 to 6, so threshold= is not for it"):
        KSparseAutoencoder.from_pretrained(name, threshold=1.0)
    with pytest.raises(ValueError, match=r"k must lie between 1 and the number of latents = 16, got 17"):
        KSparseAutoencoder.from_pretrained(name, k=17)
    with pytest.raises(ValueError, match=r"rule must be one of .*, got 'gated'"):
        KSparseAutoencoder.from_pretrained(name, rule="gated")


def test_a_file_of_a_folder_stands_for_it():
    for name, file in (("saelens_topk", "cfg.json"), ("sparsify", "sae.safetensors"), ("sdxl_unbox", "state_dict.pth"),
                       ("dictionary_learning_batchtopk", "ae.pt")):  # fmt: skip
        sae, _ = fixture(name)
        assert equal(KSparseAutoencoder.from_pretrained(FIXTURES / name / "saved" / file), sae)


def test_checkpoints_of_dictionary_learning_find_their_class(tmp_path):
    sae, _ = fixture("dictionary_learning_batchtopk")
    sae.save_as(tmp_path, "dictionary_learning")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "ae.pt").rename(tmp_path / "checkpoints" / "ae_100.pt")
    assert equal(KSparseAutoencoder.from_pretrained(tmp_path / "checkpoints" / "ae_100.pt"), sae)


def test_metadata_goes_back_to_the_library(tmp_path):
    sae, _ = fixture("saelens_pre_6")
    assert sae.metadata["saelens"]["hook_name"] == "blocks.0.hook_mlp_out"
    sae.save_as(tmp_path / "ours", "revelio_fast")
    KSparseAutoencoder.from_pretrained(tmp_path / "ours").save_as(tmp_path / "theirs", "saelens")
    assert json.loads((tmp_path / "theirs" / "cfg.json").read_text())["metadata"]["model_name"] == "gpt2"


def test_a_tied_decoder_gets_memory_of_its_own(tmp_path):
    weight = torch.randn(16, 8)
    state = {"pre_bias": torch.zeros(8), "latent_bias": torch.zeros(16), "encoder.weight": weight,
             "decoder.linear.weight": weight, "activation": "ReLU"}  # fmt: skip
    torch.save(state, tmp_path / "sae.pt")
    sae = KSparseAutoencoder.from_pretrained(tmp_path / "sae.pt")
    assert torch.equal(sae.W_enc, sae.W_dec)
    sae.W_enc.data.zero_()
    assert torch.equal(sae.W_dec, weight)

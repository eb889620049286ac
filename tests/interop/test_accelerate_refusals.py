"""What `accelerate` does not know it refuses with a sentence, and leaves as it was."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
import torch
from torch import nn

import revelio_fast as rf
from tests.interop.accelerated_libraries import (
    LIBRARIES,
    D,
    K,
    N,
    authors,
    dictionary_learning,
    overcomplete,
    require,
    rows,
    saelens,
    sparsify,
)


def refused(model, words, **options):
    before = type(model), dict(vars(model)), [(id(p), p.stride()) for p in model.parameters()]
    with pytest.raises(ValueError, match=words):
        rf.accelerate(model, **options)
    assert before == (type(model), dict(vars(model)), [(id(p), p.stride()) for p in model.parameters()])


def test_models_of_no_known_library():
    refused(nn.Linear(3, 4), r"torch\.nn\.modules\.linear\.Linear is no SAE of a known library")
    refused(rf.KSparseAutoencoder(4, n_latents=8, k=2), "is no SAE of a known library")
    with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module, got int"):
        rf.accelerate(3)


def test_twice_and_not_at_all():
    sae = authors()
    with pytest.raises(ValueError, match="is not accelerated"):
        rf.restore(sae)
    rf.accelerate(sae)
    with pytest.raises(ValueError, match="accelerated already: restore it first"):
        rf.accelerate(sae)


def test_precision_that_is_none():
    refused(authors(), "precision must be one of 'fp32', 'fast', 'bf16', got 'fp16'", precision="fp16")


@pytest.mark.parametrize("precision", ["fast", "bf16"])
def test_other_precisions_are_taken(precision):
    sae, plain = authors(), authors()
    assert rf.accelerate(sae, precision=precision).precision == precision
    # bf16 rounds inputs by 2^-9 each, and now and then another latent comes in by a hair.
    torch.testing.assert_close(sae(rows())[2], plain(rows())[2], rtol=2**-7 if precision == "bf16" else 1e-6, atol=0)


def test_authors_class_of_another_structure():
    sae = authors()
    sae.extra = nn.Parameter(torch.zeros(1))
    refused(sae, "it has the parameters extra, W_enc|W_enc, b_enc, W_dec, b_dec, extra")
    sae = authors()
    sae.b_enc = nn.Parameter(torch.zeros(3))
    refused(sae, r"its b_enc has shape \[3\], and the authors' class has \[n\]")
    sae = authors()
    sae.cfg.k = N + 1
    refused(sae, rf"its cfg\.k is {N + 1}, and must lie between 1 and its {N} latents")


def test_a_namesake_of_the_authors_class_with_other_mathematics():
    sae = authors()
    select = sae.select_topk
    sae.select_topk = lambda scores: (lambda best: (best[0].relu() * 2, best[1]))(select(scores))
    refused(sae, "its reconstruction differs from the authors' mathematics on random rows")


def test_weights_in_other_dtypes():
    for dtype in (torch.float64, torch.bfloat16):
        refused(authors().to(dtype), rf"its W_enc is {dtype}, and the ops take torch\.float32: convert it")


def test_weights_on_other_devices():
    refused(authors().to("meta"), "its W_enc is on meta, and the ops run on cpu and cuda")


def test_another_version(monkeypatch):
    for name in ("saelens", "sparsify", "dictionary_learning", "overcomplete"):
        try:
            model = LIBRARIES[name].build()
        except pytest.skip.Exception:
            continue
        monkeypatch.setattr(importlib.metadata, "version", lambda _: "99.1")
        refused(model, r" 99\.1 is not known, only .*x: install one of these")
        monkeypatch.undo()


def test_a_library_that_no_installed_package_names(monkeypatch):
    ae = dictionary_learning()

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    refused(ae, "no installed dictionary-learning says which version")


def test_saelens_classes_and_settings():
    sae = saelens()
    library = sys.modules["sae_lens"]
    for config, cls in (
        (library.StandardTrainingSAEConfig, library.StandardTrainingSAE),
        (library.BatchTopKTrainingSAEConfig, library.BatchTopKTrainingSAE),
    ):
        refused(cls(config(d_in=D, d_sae=N)), "is no TopK SAE of its library")
    refused(saelens(use_sparse_activations=True, rescale_acts_by_decoder_norm=False), "COO tensors")
    sae.activation_fn = nn.ReLU()
    refused(sae, "its activation_fn is ReLU")


def test_methods_that_somebody_replaced():
    coder = sparsify()
    coder.forward = lambda x: x
    refused(coder, "its forward is not its library's own")

    class Mine(type(sparsify())):
        def encode(self, x):
            return super().encode(2 * x)

    refused(Mine(D, sparsify().cfg), "its encode is not its library's own")


def test_sparsify_settings():
    refused(sparsify(activation="groupmax"), "its activation is 'groupmax', and only 'topk'")
    library = sys.modules["sparsify"]
    bare = library.SparseCoder(D, library.SparseCoderConfig(num_latents=N, k=K), decoder=False)
    refused(bare, "decoder=False and has no W_dec")


def test_overcomplete_settings():
    refused(overcomplete(dictionary_params={"normalization": "max_l2"}), "not normalised to l2")
    refused(overcomplete(encoder_module="mlp_ln_3"), "its encoder is a MLPEncoder with more than one linear layer")
    from overcomplete.sae import JumpSAE

    refused(JumpSAE(D, nb_concepts=N), "JumpSAE is no TopK SAE of its library")


def test_dictionary_learning_classes():
    from bench.peers.packages import DICTIONARY_LEARNING

    require(DICTIONARY_LEARNING)
    from dictionary_learning.dictionary import AutoEncoder

    refused(AutoEncoder(D, N), "AutoEncoder is no TopK dictionary of its library")

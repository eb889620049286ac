"""`Semantics` in `KSparseAutoencoder.encode` and `decode`: every rule against a dense float64 oracle."""

import dataclasses
import itertools

import pytest
import torch

from revelio_fast import KSparseAutoencoder
from revelio_fast.ksae import selection
from revelio_fast.ksae.semantics import INPUT_NORMS, Semantics
from tests.interop.oracle import FLOAT32, closeness, decode, dense, encode

RULES = [("topk", "none"), ("topk", "before"), ("topk", "after"), ("batch_topk", "before"), ("threshold", "before"),
         ("abs_topk", "none")]  # fmt: skip


def model(semantics, d=24, n=90, k=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sae = KSparseAutoencoder(d, n_latents=n, k=k, semantics=semantics)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if sae.threshold is not None:
            sae.threshold.copy_(torch.linspace(0, 12, n))
    return sae


def rows(d=24, B=37, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, d, generator=generator) * torch.linspace(0.1, 3, B)[:, None] + 0.5


@pytest.mark.parametrize(("rule", "relu"), RULES)
@pytest.mark.parametrize(
    ("norm", "rescale", "centred", "scale"),
    [(norm, rescale, centred, 1.0) for norm, rescale, centred in itertools.product(INPUT_NORMS, (0, 1), (0, 1))]
    + [("none", 0, 1, 0.3), ("none", 1, 0, 2.5)],
)
def test_codes_and_reconstructions(rule, relu, norm, rescale, centred, scale, monkeypatch):
    monkeypatch.setattr(selection, "BLOCK", 90 * 5)  # several blocks of rows
    how = Semantics(rule, relu, bool(centred), norm, scale, bool(rescale))
    sae, x = model(how), rows()
    expected = encode(sae, x)
    code = sae.encode(x)
    z = dense(code, sae.n_latents)
    assert torch.equal(z != 0, expected != 0) and int((z != 0).sum()) > 37
    assert closeness(z, expected) < FLOAT32
    assert closeness(sae.decode(code, x), decode(sae, expected, x)) < FLOAT32
    assert closeness(sae(x).x_hat, decode(sae, expected, x)) < FLOAT32
    order = code.values.abs() if rule == "abs_topk" else code.values
    assert bool((order[:, :-1] >= order[:, 1:]).all())
    assert all(len(set(row)) == len(row) for row in code.indices.tolist())


@pytest.mark.parametrize(("rule", "relu"), RULES)
@pytest.mark.parametrize("norm", ["none", "layer_norm"])
def test_gradients(rule, relu, norm):
    """Against autograd through the oracle in float64, the choice of latents being what it is there."""
    sae, x = model(Semantics(rule, relu, True, norm, 1.0, norm == "none")), rows().requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    (sae.decode(sae.encode(x), x) * direction).sum().backward()
    found = [parameter.grad.clone() for parameter in (x, *sae.parameters())]
    for parameter in (x, *sae.parameters()):
        parameter.grad = None
    (decode(sae, encode(sae, x), x) * direction).sum().backward()
    for name, one, parameter in zip(
        ("x", "W_dec", "W_enc", "b_enc", "b_pre"), found, (x, *sae.parameters()), strict=True
    ):
        # Two chained products in float32, and sums over 37 rows: tens of units of 2^-24.
        assert closeness(one, parameter.grad) < 5e-6, name


def test_a_batch_of_equal_values_keeps_the_first_rows_and_latents():
    sae = KSparseAutoencoder(2, n_latents=6, k=2, semantics=Semantics("batch_topk", "before"))
    with torch.no_grad():
        sae.W_enc.fill_(1), sae.b_enc.zero_(), sae.b_pre.zero_()
    code = sae.encode(torch.ones(3, 2))
    assert dense(code, 6).nonzero().tolist() == [[0, latent] for latent in range(6)]


@pytest.mark.parametrize("threshold", [0.0, 1e9])
def test_rows_without_an_active_latent(threshold):
    sae = model(Semantics("threshold", "before"))
    sae.threshold.fill_(threshold)
    code = sae.encode(rows())
    active = (code.values > 0).sum(1)
    assert int(active.max()) == (code.values.shape[1] if threshold == 0 else 0)
    assert all(len(set(row)) == len(row) for row in code.indices.tolist())
    assert bool(torch.isfinite(sae.decode(code)).all())


@pytest.mark.parametrize("how", [Semantics(relu="after"), Semantics(relu="after", input_norm="layer_norm")])
def test_the_top_k_compiles_whole(how):
    sae, x = model(how), rows()
    compiled = torch.compile(sae, fullgraph=True, backend="aot_eager")
    # Layer norm decomposes into other sums.
    assert closeness(compiled(x).x_hat, sae(x).x_hat) < FLOAT32


def test_features_that_cannot_be_encoded():
    sae = model(Semantics("threshold", "before", input_norm="layer_norm"))
    for x in (torch.zeros(24), torch.zeros(3, 24, dtype=torch.float64), torch.zeros(3, 23), [[0.0] * 24]):
        with pytest.raises(ValueError, match=r"^x "):
            sae.encode(x)


def test_no_rows():
    for rule, relu in RULES:
        sae = model(Semantics(rule, relu))
        if rule == "batch_topk":
            with pytest.raises(ValueError, match=r"batch_topk needs at least one row"):
                sae.encode(torch.empty(0, 24))
        else:
            assert sae.decode(sae.encode(torch.empty(0, 24))).shape == (0, 24)


def test_normalised_features_are_needed_to_decode():
    sae = model(Semantics("topk", "after", input_norm="layer_norm"))
    with pytest.raises(ValueError, match=r"normalises every feature vector \(layer_norm\): decode\(code, x\) needs"):
        sae.decode(sae.encode(rows()))


def test_the_record_survives_json_and_says_what_it_is():
    how = Semantics("threshold", "before", False, "layer_norm", 1.0, True, (10, 80))
    assert Semantics.from_dict(how.as_dict()) == how and not how.is_plain
    assert how.describe(8) == (
        "above the latents' thresholds (trained for 8 a row); ReLU before; b_pre only added; layer norm of the "
        "features; rescaled by decoder norms; Matryoshka groups 10, 80"
    )
    assert Semantics(relu="after").is_plain and "no ReLU" in Semantics().describe(3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rule": "gated"}, r"rule must be one of topk, batch_topk, threshold, abs_topk, got 'gated'"),
        ({"rule": "threshold"}, r"'threshold' goes with relu='before', got 'none'"),
        ({"rule": "abs_topk", "relu": "after"}, r"'abs_topk' goes with relu='none', got 'after'"),
        ({"input_scale": 0.0}, r"input_scale must be a positive number, got 0.0"),
        ({"input_scale": 2.0, "input_norm": "rms_norm"}, r"input_scale must be 1 together with input_norm='rms_norm'"),
        ({"subtract_b_pre": 1}, r"subtract_b_pre must be true or false, got 1"),
        ({"groups": (0, 4)}, r"groups must be sizes of at least 1"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Semantics(**fields)


def test_impossible_k():
    for k, rule in ((2.5, "topk"), (0, "topk"), (91, "batch_topk"), (None, "topk")):
        with pytest.raises(ValueError, match=r"k must"):
            KSparseAutoencoder(24, n_latents=90, k=k, semantics=Semantics(rule, "before"))
    sae = model(Semantics("batch_topk", "before"), k=2.5)
    assert int((sae.encode(rows()).values > 0).sum()) == int(2.5 * 37)
    sae.semantics = dataclasses.replace(sae.semantics, rule="topk")
    with pytest.raises((ValueError, TypeError)):
        sae.encode(rows())

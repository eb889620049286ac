"""The libraries themselves beside us, here and now: their files read by us, and ours by them (`make test-interop`)."""

import importlib.util

import pytest
import torch

from revelio_fast import KSparseAutoencoder
from revelio_fast.ksae.semantics import Semantics
from tests.interop import peers
from tests.interop.oracle import FLOAT32, closeness, dense

if any(importlib.util.find_spec(name) is None for name in ("sae_lens", "sparsify", "dictionary_learning")):
    pytest.skip("needs SAELens, sparsify and dictionary_learning: make test-interop", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*sparse_csr.*", "ignore:Sparse invariant checks", "ignore::FutureWarning"),
]
# d, n, k: a common shape, and one where many rows have fewer than k positive pre-activations.
SHAPES = [(64, 256, 8), (8, 16, 10)]


def made(make, *arguments):
    try:
        return make(*arguments)
    except peers.Absent as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", peers.MAKERS)
def test_their_file_read_by_us(name, shape, tmp_path):
    theirs = made(peers.MAKERS[name], tmp_path / "theirs", *shape)
    sae = KSparseAutoencoder.from_pretrained(theirs.path, **theirs.options or {})
    x = peers.features(shape[0])
    z, x_hat = theirs.encode(x), theirs.forward(x)
    code = sae.encode(x)
    assert torch.equal(dense(code, sae.n_latents) != 0, z != 0) and bool((z != 0).any())
    assert closeness(dense(code, sae.n_latents), z) < FLOAT32
    assert closeness(sae.decode(code, x), x_hat) < FLOAT32


def ours(semantics, d, n, k):
    sae = KSparseAutoencoder(d, n_latents=n, k=k, semantics=semantics)
    peers.randomise(sae, seed=7)
    if sae.threshold is not None:
        sae.threshold.fill_(0.4 * d**0.5)
    return sae


def saelens(folder, sae):
    theirs = peers.saelens_class(folder, training=sae.semantics.rule == "batch_topk")
    return torch.no_grad()(theirs.encode), torch.no_grad()(theirs.forward)


def sparsify(folder, sae):
    coder = peers.load(peers.SPARSIFY).SparseCoder.load_from_disk(folder)

    @torch.no_grad()
    def encode(x):
        code = coder.encode(x)
        return torch.zeros(len(x), sae.n_latents).scatter(1, code.top_indices, code.top_acts)

    return encode, torch.no_grad()(lambda x: coder(x).sae_out)


def dictionary_learning(folder, sae):
    utils = peers.load(peers.DICTIONARY_LEARNING._replace(module="dictionary_learning.utils"))
    ae, config = utils.load_dictionary(str(folder), "cpu")
    assert config["trainer"]["dict_size"] == sae.n_latents and int(ae.k) == sae.k
    return torch.no_grad()(ae.encode), torch.no_grad()(ae.forward)


def overcomplete(folder, sae):
    peers.load(peers.OVERCOMPLETE)
    from overcomplete.sae import TopKSAE

    theirs = TopKSAE(sae.d_in, nb_concepts=sae.n_latents, top_k=sae.k)
    theirs.load_state_dict(torch.load(folder / "sae.pt"))
    return torch.no_grad()(lambda x: theirs.encode(x)[1]), torch.no_grad()(lambda x: theirs(x)[2])


def openai(folder, sae):
    model = peers.checkout("sparse_autoencoder", "sparse_autoencoder/model.py")
    ae = model.Autoencoder.from_state_dict(torch.load(folder / "autoencoder.pt"))
    return torch.no_grad()(lambda x: ae.encode(x)[0]), torch.no_grad()(lambda x: ae(x)[2])


def sdxl_unbox(folder, sae):
    theirs = peers.checkout("sdxl-unbox", "SAE/sae.py").SparseAutoencoder.load_from_disk(str(folder))
    return torch.no_grad()(theirs.encode), torch.no_grad()(lambda x: theirs(x)[0])


def authors(folder, sae):
    theirs = peers.authors_model(sae.d_in, sae.n_latents, sae.k)
    theirs.load_state_dict(torch.load(folder / "sae.pt")["state_dict"])

    @torch.no_grad()
    def encode(x):
        values, indices = theirs(x)[1].topk(sae.k, dim=1)
        return torch.zeros(len(x), sae.n_latents).scatter(1, indices, values)

    return encode, torch.no_grad()(lambda x: theirs(x)[0])


WRITTEN = [
    (saelens, Semantics(relu="before")),
    (saelens, Semantics(relu="after", rescale_by_decoder_norm=True)),
    (saelens, Semantics(relu="after", rescale_by_decoder_norm=True, input_scale=0.4)),
    (saelens, Semantics(relu="after", subtract_b_pre=False)),
    (saelens, Semantics(relu="after", input_norm="layer_norm")),
    (saelens, Semantics(relu="after", input_norm="rms_norm")),
    (saelens, Semantics("threshold", "before", input_scale=3.0)),
    (saelens, Semantics("threshold", "before", rescale_by_decoder_norm=True)),
    (saelens, Semantics("batch_topk", "before")),
    (saelens, Semantics("batch_topk", "before", rescale_by_decoder_norm=True)),
    (saelens, Semantics("abs_topk")),
    (sparsify, Semantics(relu="before")),
    (sparsify, Semantics(relu="after", rescale_by_decoder_norm=True, input_scale=0.4)),
    (sparsify, Semantics(relu="before", subtract_b_pre=False)),
    (dictionary_learning, Semantics(relu="before")),
    (dictionary_learning, Semantics("threshold", "before")),
    (dictionary_learning, Semantics("threshold", "before", subtract_b_pre=False, input_scale=0.4)),
    (openai, Semantics(relu="after", input_norm="layer_norm")),
    (openai, Semantics(relu="none", input_norm="layer_norm")),
    (sdxl_unbox, Semantics(relu="after")),
    (authors, Semantics()),
    (authors, Semantics(subtract_b_pre=False)),
]


def both_compute_the_same(load, sae, folder):
    sae.save_as(folder, load.__name__)
    encode, forward = made(load, folder, sae)
    x = peers.features(sae.d_in)
    code = sae.encode(x)
    z = dense(code, sae.n_latents)
    assert torch.equal(encode(x) != 0, z != 0) and bool((z != 0).any())
    assert closeness(encode(x), z) < FLOAT32
    assert closeness(forward(x), sae.decode(code, x)) < FLOAT32


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("load", "semantics"), WRITTEN, ids=[f"{load.__name__}: {how.describe('k')}" for load, how in WRITTEN]
)
def test_our_file_read_by_them(load, semantics, shape, tmp_path):
    both_compute_the_same(load, ours(semantics, *shape), tmp_path)


@pytest.mark.parametrize("load", [saelens, dictionary_learning])
def test_our_matryoshka_read_by_them(load, tmp_path):
    rule = "batch_topk" if load is saelens else "threshold"
    both_compute_the_same(load, ours(Semantics(rule, "before", groups=(60, 196)), 64, 256, 8), tmp_path)


def test_our_unit_rows_read_by_overcomplete(tmp_path):
    sae = ours(Semantics(relu="before"), 64, 256, 8)
    with torch.no_grad():
        sae.b_pre.zero_()
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    both_compute_the_same(overcomplete, sae, tmp_path)


def test_our_plain_relu_read_by_openai(tmp_path):
    sae = ours(Semantics("threshold", "before"), 64, 256, 8)
    sae.threshold.zero_()
    both_compute_the_same(openai, sae, tmp_path)

"""Autoencoders made, saved and run by the real libraries: what the golden tests and the fixtures compare us with.

Libraries from the package index are imported when one of theirs is made. OpenAI's, sdxl-unbox' and the authors' code
are no packages: `CHECKOUTS` names a folder with checkouts of their repositories, called as those are.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.peers.packages import DICTIONARY_LEARNING, OVERCOMPLETE, SAELENS, SPARSIFY, load

CHECKOUTS = "REVELIO_PEER_CHECKOUTS"


class Absent(Exception):
    """A library is not there; the message says how to get it."""


class Made(NamedTuple):
    """An autoencoder of another library.

    Attributes
    ----------
    path : Path
        What the library, or a user of it, saved.
    encode : callable
        Features ``[B, d]`` to dense codes ``[B, n]``.
    forward : callable
        Features to reconstructions.
    options : dict
        What `from_pretrained` must be told besides the path.
    """

    path: Path
    encode: Callable[[Tensor], Tensor]
    forward: Callable[[Tensor], Tensor]
    options: dict[str, Any] | None = None


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Weights of every sign and size, decoder rows not of unit norm, biases that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.dim() > 1 else 0.3))


def features(d: int, rows: int = 24) -> Tensor:
    """Rows of different means and scales."""
    generator = torch.Generator().manual_seed(99)
    scale = torch.linspace(0.5, 3, rows)[:, None]
    return torch.randn(rows, d, generator=generator) * scale + torch.randn(rows, 1, generator=generator)


def saelens(
    kind: str, folder: Path, d: int, n: int, k: int, *, save: str = "save_model", threshold: float | None = None,
    scale: float | None = None, **settings: Any,
) -> Made:  # fmt: skip
    """`kind` is the name of SAELens' class; `scale` that of a checkpoint in the middle of a training."""
    library = load(SAELENS)
    own = {"k": k} if "TopK" in kind else {}
    sae = getattr(library, kind)(getattr(library, f"{kind}Config")(d_in=d, d_sae=n, **own, **settings))
    randomise(sae)
    with torch.no_grad():
        if threshold is not None and hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(threshold)
        elif threshold is not None:
            sae.threshold.copy_(torch.linspace(0, 2 * threshold, n))
    getattr(sae, save)(folder)
    if save == "save_inference_model":
        sae = library.SAE.load_from_disk(folder)
    if scale is not None:
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": scale}))
    factor = scale if scale is not None else 1.0
    encode = torch.no_grad()(lambda x: sae.encode(x * factor))
    # One call of encode leaves the statistics that decode uses.
    forward = torch.no_grad()(lambda x: sae.decode(sae.encode(x * factor)) / factor)
    return Made(folder, encode, forward)


def saelens_pre_6(folder: Path, d: int, n: int, k: int) -> Made:
    """As versions before 6 wrote cfg.json, loaded by the installed one."""
    made = saelens("TopKSAE", folder, d, n, k, normalize_activations="layer_norm")
    cfg = {
        "architecture": "standard", "d_in": d, "d_sae": n, "dtype": "float32", "device": "cpu",
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": k}, "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False, "normalize_activations": "layer_norm", "hook_name": "blocks.0.hook_mlp_out",
        "hook_layer": 0, "model_name": "gpt2", "prepend_bos": True, "dataset_path": "none", "context_size": 8,
        "sae_lens_training_version": "4.0.0",
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(cfg))
    sae = load(SAELENS).SAE.load_from_disk(folder)
    return Made(made.path, torch.no_grad()(sae.encode), torch.no_grad()(sae.forward))


def sparsify(folder: Path, d: int, n: int, k: int, dtype: torch.dtype = torch.float32) -> Made:
    """A SparseCoder; in bfloat16 it is run in float32 on the numbers that it saved."""
    library = load(SPARSIFY)
    coder = library.SparseCoder(d, library.SparseCoderConfig(num_latents=n, k=k), dtype=dtype)
    randomise(coder)
    coder.save_to_disk(folder)
    coder = coder.float()

    def encode(x: Tensor) -> Tensor:
        code = coder.encode(x)
        return torch.zeros(len(x), n).scatter(1, code.top_indices, code.top_acts)

    return Made(folder, torch.no_grad()(encode), torch.no_grad()(lambda x: coder(x).sae_out))


def dictionary_learning(
    kind: str, folder: Path, d: int, n: int, k: int, threshold: float = -1.0, backup: float | None = None
) -> Made:
    """`kind` is the class; `backup` the norm_factor of a backup in the middle of a training."""
    load(DICTIONARY_LEARNING)
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    classes = {
        "AutoEncoderTopK": top_k.AutoEncoderTopK,
        "BatchTopKSAE": batch_top_k.BatchTopKSAE,
        "MatryoshkaBatchTopKSAE": matryoshka_batch_top_k.MatryoshkaBatchTopKSAE,
    }
    groups = ([n // 4, n - n // 4],) if kind == "MatryoshkaBatchTopKSAE" else ()
    ae = classes[kind](d, n, k, *groups)
    randomise(ae)
    ae.threshold.fill_(threshold)
    trainer = {"dict_class": kind, "activation_dim": d, "dict_size": n, "k": k, "lr": 1e-4}
    folder.mkdir(parents=True, exist_ok=True)
    saved: dict[str, Any] = ae.state_dict()
    if backup is not None:
        saved = {"step": 3, "ae": saved, "optimizer": {}, "config": trainer, "norm_factor": backup}
    torch.save(saved, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    factor = 1.0 if backup is None else backup
    return Made(
        folder, torch.no_grad()(lambda x: ae.encode(x / factor)), torch.no_grad()(lambda x: ae(x / factor) * factor)
    )


def overcomplete(kind: str, folder: Path, d: int, n: int, k: int, untied: bool = False) -> Made:
    """The state_dict of a TopKSAE, or of a BatchTopKSAE after one batch, with its threshold as an option."""
    load(OVERCOMPLETE)
    from overcomplete import sae as classes

    sae = getattr(classes, kind)(d, nb_concepts=n, top_k=k)
    if untied:
        sae.untied(bias=True)
    randomise(sae)
    sae.train()
    sae(features(d))
    sae.eval()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(sae.state_dict(), folder / "sae.pt")
    options = {"k": k} if kind == "TopKSAE" else {"rule": "threshold", "threshold": float(sae.running_threshold)}
    return Made(
        folder / "sae.pt", torch.no_grad()(lambda x: sae.encode(x)[1]), torch.no_grad()(lambda x: sae(x)[2]), options
    )


def openai(folder: Path, d: int, n: int, k: int, activation: str = "TopK") -> Made:
    """An Autoencoder; "TopK" has layer norm, as its loader decides."""
    model = checkout("sparse_autoencoder", "sparse_autoencoder/model.py")
    chosen = model.TopK(k) if activation == "TopK" else torch.nn.ReLU()
    ae = model.Autoencoder(n, d, activation=chosen, normalize=activation == "TopK")
    randomise(ae)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(ae.state_dict(), folder / "autoencoder.pt")
    return Made(
        folder / "autoencoder.pt", torch.no_grad()(lambda x: ae.encode(x)[0]), torch.no_grad()(lambda x: ae(x)[2])
    )


def sdxl_unbox(folder: Path, d: int, n: int, k: int) -> Made:
    """A SparseAutoencoder saved by itself."""
    sae = checkout("sdxl-unbox", "SAE/sae.py").SparseAutoencoder(n, d, k, None, 10)
    randomise(sae)
    sae.save_to_disk(str(folder))
    return Made(folder, torch.no_grad()(sae.encode), torch.no_grad()(lambda x: sae(x)[0]))


def authors(folder: Path, d: int, n: int, k: int, suffix: str = ".pt") -> Made:
    """The authors' class with its settings object, saved by its own method."""
    sae = authors_model(d, n, k)
    randomise(sae)
    path = folder / f"final_k_sparse_autoencoder{suffix}"
    sae.save_model(str(path))

    def encode(x: Tensor) -> Tensor:
        values, indices = sae(x)[1].topk(k, dim=1)
        return torch.zeros(len(x), n).scatter(1, indices, values)

    return Made(path, torch.no_grad()(encode), torch.no_grad()(lambda x: sae(x)[0]))


def authors_model(d: int, n: int, k: int) -> Any:
    """A new model of the authors' class."""
    root = folder_of("revelio") / "SD-kSAE"
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    import wandb

    wandb.util.generate_id = lambda: "run"  # the authors' version of wandb had it
    from training.config import SDSAERunnerConfig
    from training.k_sparse_autoencoder import KSparseAutoencoder

    return KSparseAutoencoder(SDSAERunnerConfig(d_in=d, k=k, expansion_factor=n // d))


def folder_of(repository: str) -> Path:
    """The checkout of a repository."""
    folder = Path(os.environ.get(CHECKOUTS, "")) / repository
    if CHECKOUTS not in os.environ or not folder.is_dir():
        raise Absent(f"needs a checkout of {repository} in the folder that ${CHECKOUTS} names")
    return folder


def checkout(repository: str, file: str) -> Any:
    """A module of a repository, by its file."""
    path = folder_of(repository) / file
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saelens_class(path: Path, training: bool = False) -> Any:
    """What SAELens itself loads from a folder."""
    library = load(SAELENS)
    return (library.TrainingSAE if training else library.SAE).load_from_disk(copy.copy(str(path)))


MAKERS: dict[str, Callable[[Path, int, int, int], Made]] = {
    "saelens_topk": lambda *a: saelens("TopKSAE", *a),
    "saelens_topk_rescaled": lambda *a: saelens("TopKTrainingSAE", *a),
    "saelens_topk_inference": lambda *a: saelens("TopKTrainingSAE", *a, save="save_inference_model"),
    "saelens_topk_layer_norm": lambda *a: saelens("TopKSAE", *a, normalize_activations="layer_norm"),
    "saelens_topk_constant_norm": lambda *a: saelens("TopKSAE", *a, normalize_activations="constant_norm_rescale"),
    "saelens_topk_uncentred": lambda *a: saelens("TopKSAE", *a, apply_b_dec_to_input=False),
    "saelens_topk_scaled": lambda *a: saelens(
        "TopKTrainingSAE", *a, scale=0.37, normalize_activations="expected_average_only_in"
    ),
    "saelens_abstopk": lambda *a: saelens("AbsTopKSAE", *a),
    "saelens_batchtopk": lambda *a: saelens("BatchTopKTrainingSAE", *a, threshold=6.0),
    "saelens_batchtopk_inference": lambda *a: saelens(
        "BatchTopKTrainingSAE", *a, threshold=6.0, save="save_inference_model"
    ),
    "saelens_matryoshka": lambda *a: saelens(
        "MatryoshkaBatchTopKTrainingSAE", *a, threshold=6.0, matryoshka_widths=[a[2] // 4, a[2]]
    ),
    "saelens_jumprelu": lambda *a: saelens("JumpReLUSAE", *a, threshold=6.0),
    "saelens_standard": lambda *a: saelens("StandardSAE", *a),
    "saelens_pre_6": saelens_pre_6,
    "sparsify": sparsify,
    "sparsify_bf16": lambda *a: sparsify(*a, dtype=torch.bfloat16),
    "dictionary_learning_topk": lambda *a: dictionary_learning("AutoEncoderTopK", *a),
    "dictionary_learning_batchtopk": lambda *a: dictionary_learning("BatchTopKSAE", *a, threshold=6.0),
    "dictionary_learning_unset": lambda *a: dictionary_learning("BatchTopKSAE", *a),
    "dictionary_learning_matryoshka": lambda *a: dictionary_learning("MatryoshkaBatchTopKSAE", *a, threshold=6.0),
    "dictionary_learning_backup": lambda *a: dictionary_learning("AutoEncoderTopK", *a, backup=2.5),
    "overcomplete_topk": lambda *a: overcomplete("TopKSAE", *a),
    "overcomplete_untied": lambda *a: overcomplete("TopKSAE", *a, untied=True),
    "overcomplete_batchtopk": lambda folder, d, n, k: overcomplete("BatchTopKSAE", folder, d, n, 6 * k),
    "openai_topk": openai,
    "openai_relu": lambda *a: openai(*a, activation="ReLU"),
    "sdxl_unbox": sdxl_unbox,
    "authors": authors,
    "authors_gzip": lambda *a: authors(*a, suffix=".pkl.gz"),
}
"""Name -> what makes it, from a folder, d, n and k."""

"""Each library's TopK SAE at a small size, with its own trainer: what the tests of `accelerate` run.

A library that is absent skips its tests. The authors' class has no package: authors_class.py stands in for it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from bench.peers.packages import DICTIONARY_LEARNING, OVERCOMPLETE, SAELENS, SPARSIFY, NotInstalled, Package, load
from tests.interop.authors_class import KSparseAutoencoder

B, D, N, K = 64, 24, 256, 4
STEPS, LR = 20, 4e-3
Train = Callable[[nn.Module, Callable[..., Any]], list[float]]


class Library(NamedTuple):
    """A library's model and trainer.

    Attributes
    ----------
    name : str
    build : callable
        A model with a fixed start; equal for equal arguments.
    loss : callable
        From a model and rows to what its trainer minimises and the tensors that it returns, by name.
    train : callable
        Runs its trainer on a model for `STEPS` steps and returns its losses. It calls a given function on the model and
        its optimiser when both exist.
    inference : callable
        From a model and rows to a reconstruction, without gradients.
    """

    name: str
    build: Callable[..., nn.Module]
    loss: Callable[[Any, Tensor], tuple[Tensor, dict[str, Tensor]]]
    train: Train
    inference: Callable[[Any, Tensor], Tensor]


def rows(seed: int = 1, count: int = B) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def batches() -> list[Tensor]:
    return [rows(seed) for seed in range(STEPS)]


def require(package: Package) -> Any:
    os.environ.setdefault("WANDB_MODE", "disabled")
    try:
        return load(package)
    except NotInstalled as absent:
        pytest.skip(str(absent))


def _started(model: nn.Module) -> nn.Module:
    """Biases and norms that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
            elif name in ("W_dec", "dictionary._weights"):
                parameter.mul_(torch.rand(len(parameter), 1, generator=generator) + 0.5)
    return model


# SAELens


def saelens(**settings: Any) -> nn.Module:
    library = require(SAELENS)
    torch.manual_seed(0)
    config = library.TopKTrainingSAEConfig(d_in=D, d_sae=N, k=K, device="cpu", **settings)
    return _started(library.TopKTrainingSAE(config))


def saelens_loss(sae: Any, x: Tensor, dead: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    from sae_lens.saes.sae import TrainStepInput

    sae.train()
    out = sae.training_forward_pass(TrainStepInput(x, {}, dead, 0, False))
    return out.loss, {"sae_out": out.sae_out, "feature_acts": out.feature_acts, "hidden_pre": out.hidden_pre}


def saelens_train(sae: Any, started: Callable[..., Any], *, dead_window: int = 3) -> list[float]:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = SAETrainerConfig(
        total_training_samples=B * STEPS,
        train_batch_size_samples=B,
        lr=LR,
        lr_end=LR,
        device="cpu",
        dead_feature_window=dead_window,
    )
    config.logger.log_to_wandb = False
    losses = []

    class Data:
        def __init__(self) -> None:
            self.left = iter(batches())

        def __next__(self) -> Tensor:
            return next(self.left)

    trainer: Any = SAETrainer(config, sae, Data())
    step = trainer.step

    def noted(batch: Tensor) -> Any:
        out = step(batch)
        losses.append(out.loss.item())
        return out

    trainer.step = noted
    started(sae, trainer.optimizer)
    with contextlib.redirect_stderr(io.StringIO()):
        trainer.fit()
    counts = trainer.act_freq_scores.tolist() + trainer.n_forward_passes_since_fired.tolist()
    return losses + counts


# sparsify


def sparsify(**settings: Any) -> nn.Module:
    library = require(SPARSIFY)
    torch.manual_seed(0)
    return _started(library.SparseCoder(D, library.SparseCoderConfig(num_latents=N, k=K, **settings)))


def sparsify_loss(coder: Any, x: Tensor, dead: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    y = rows(2) if coder.cfg.transcode else None
    out = coder(x, y, dead_mask=dead)
    results = {"sae_out": out.sae_out, "latent_acts": out.latent_acts.sort(1).values}
    results["latent_indices"] = out.latent_indices.sort(1).values
    return out.fvu + out.auxk_loss / 32 + out.multi_topk_fvu / 8, results


def sparsify_train(coder: Any, started: Callable[..., Any], **settings: Any) -> list[float]:
    """Its Trainer on the activations of a random GPT-2 whose width is ours, with Adam."""
    from datasets import Dataset
    from sparsify import SparseCoderConfig, TrainConfig, Trainer
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    network = GPT2Model(GPT2Config(vocab_size=50, n_positions=16, n_embd=D, n_layer=1, n_head=2)).eval()
    ids = torch.randint(50, (4 * STEPS, 16), generator=torch.Generator().manual_seed(3))
    config = TrainConfig(
        SparseCoderConfig(num_latents=N, k=K),
        batch_size=4,
        optimizer="adam",
        lr=LR,
        lr_warmup_steps=2,
        auxk_alpha=1 / 32,
        dead_feature_threshold=100,
        hookpoints=["h.0"],
        log_to_wandb=False,
        **settings,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer = Trainer(config, Dataset.from_dict({"input_ids": ids.tolist()}).with_format("torch"), network)
        trainer.save = lambda: None
        made = trainer.saes["h.0"]
        made.load_state_dict(coder.state_dict())
        trainer.saes["h.0"] = coder
        (group,) = trainer.optimizers[0].param_groups
        group["params"] = list(coder.parameters())
        losses: list[float] = []
        started(coder, trainer.optimizers[0])
        handle = coder.register_forward_hook(lambda _, __, out: losses.append((out.fvu + out.auxk_loss / 32).item()))
        trainer.fit()
        handle.remove()
    return losses + trainer.num_tokens_since_fired["h.0"].tolist()


# dictionary_learning


def dictionary_learning() -> nn.Module:
    require(DICTIONARY_LEARNING)
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    torch.manual_seed(0)
    return _started(AutoEncoderTopK(D, N, K))


def dictionary_learning_loss(ae: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    f, values, indices, post_relu = ae.encode(x, return_topk=True)
    x_hat = ae.decode(f)
    named = {"f": f, "values": values.sort(1).values, "indices": indices.sort(1).values}
    return (x - x_hat).pow(2).sum(-1).mean(), named | {"post_relu": post_relu, "x_hat": x_hat}


def dictionary_learning_train(
    ae: Any, started: Callable[..., Any], *, dead_after: int = 500, whole: bool = False
) -> list[float]:
    """With `whole` it is the trainer that `started` is called on, in the place of its model."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    made = iter([ae])
    trainer = TopKTrainer(
        steps=STEPS + 1,
        activation_dim=D,
        dict_size=N,
        k=K,
        layer=0,
        lm_name="none",
        dict_class=lambda *_: next(made),  # type: ignore[arg-type]
        lr=LR,
        warmup_steps=2,
        threshold_start_step=5,
        device="cpu",
    )
    trainer.dead_feature_threshold = dead_after
    started(trainer if whole else ae, trainer.optimizer)
    losses = [trainer.update(step, x) for step, x in enumerate(batches())]
    return [*losses, float(ae.threshold), *trainer.num_tokens_since_fired.tolist()]


# overcomplete


def overcomplete(*, encoder: str = "default", **settings: Any) -> nn.Module:
    require(OVERCOMPLETE)
    from overcomplete.sae import TopKSAE

    torch.manual_seed(0)
    sae = TopKSAE(D, nb_concepts=N, top_k=K, **settings)
    if encoder != "default":
        getattr(sae, encoder)(bias=True)
    return _started(sae)


def overcomplete_loss(sae: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    sae.train()
    pre_codes, codes, x_hat = sae(x)
    return (x_hat - x).square().mean(), {"pre_codes": pre_codes, "codes": codes, "x_hat": x_hat}


def overcomplete_train(sae: Any, started: Callable[..., Any]) -> list[float]:
    from overcomplete.sae import train_sae

    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    started(sae, optimizer)

    def criterion(x: Tensor, x_hat: Tensor, z_pre: Tensor, z: Tensor, D: Tensor) -> Tensor:
        return (x_hat - x).square().mean()

    with contextlib.redirect_stdout(io.StringIO()):
        logs = train_sae(sae, batches(), criterion, optimizer, nb_epochs=1)
    return [*logs["step_loss"], *logs["dead_features"], *logs["z_sparsity"], *logs["r2"]]


# The authors' class


def authors(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return _started(KSparseAutoencoder(SimpleNamespace(d_in=D, d_sae=N, k=K, **settings)))


def authors_loss(sae: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    sae_out, hidden_pre, loss = sae(x)
    return loss, {"sae_out": sae_out, "hidden_pre": hidden_pre}


def authors_train(sae: Any, started: Callable[..., Any]) -> list[float]:
    """The order of the authors' loop, with its count of active latents."""
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    started(sae, optimizer)
    losses, counts = [], torch.zeros(N)
    for x in batches():
        sae.set_decoder_norm_to_unit_norm()
        optimizer.zero_grad()
        _, hidden_pre, loss = sae(x)
        counts += (hidden_pre > 0).float().sum(0).detach()
        loss.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        losses.append(loss.item())
    return losses + counts.tolist()


def _last(model: Any, x: Tensor) -> Tensor:
    out = model.eval()(x)
    return out[-1] if isinstance(out, tuple) else out


LIBRARIES = {
    one.name: one
    for one in (
        Library("saelens", saelens, saelens_loss, saelens_train, _last),
        Library("sparsify", sparsify, sparsify_loss, sparsify_train, lambda m, x: m(x).sae_out),
        Library("dictionary_learning", dictionary_learning, dictionary_learning_loss, dictionary_learning_train, _last),
        Library("overcomplete", overcomplete, overcomplete_loss, overcomplete_train, _last),
        Library("authors", authors, authors_loss, authors_train, lambda m, x: m(x)[0]),
    )
}

"""dictionary_learning: `AutoEncoderTopK`, trained by its `TopKTrainer`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.interop.accelerate.base import Accelerated, zeros
from revelio_fast.interop.accelerate.lazy import carried, carry, computed_when_read
from revelio_fast.interop.accelerate.sparse import Encoder


class DictionaryLearning(Accelerated):
    """`AutoEncoderTopK`. The AuxK loss is its trainer's; see `AcceleratedTrainer`."""

    library, package, distribution = "dictionary_learning", "dictionary_learning", "dictionary-learning"
    versions = ("0.1.",)
    latents_dims: ClassVar[dict[str, int]] = {"encoder.weight": 0, "decoder.weight": 1}
    replaced = ("encode", "decode")
    encoder: Any
    b_dec: Tensor
    k: Tensor

    @classmethod
    def recognises(cls, model: Any) -> bool:
        return any(base.__module__.startswith("dictionary_learning.") for base in type(model).__mro__)

    @classmethod
    def refusal(cls, model: Any) -> str:
        if type(model).__name__ != "AutoEncoderTopK":
            return f"{type(model).__name__} is no TopK dictionary of its library: only AutoEncoderTopK is known"
        return ""

    def encode(self, x: Tensor, return_topk: bool = False, use_threshold: bool = False) -> Any:
        if use_threshold or not self._runs(x) or x.dim() < 2:
            return self._original_class.encode(self, x, return_topk=return_topk, use_threshold=use_threshold)
        rows = x.reshape(-1, x.shape[-1])
        W_enc = self._rows("encoder.weight")
        encoder = Encoder(W_enc, self.encoder.bias, self.b_dec, True, self._accelerated.precision)
        code = encoder.encode(rows, int(self.k))
        dense = self._dense(code, x)
        if not return_topk:
            return dense

        def compute(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor) -> Tensor:
            return torch.nn.functional.linear(x - b_pre, W_enc, b_enc).relu()

        inputs = (x, W_enc, encoder.b_enc, self.b_dec)
        post_relu = computed_when_read(compute, inputs, dense.shape, "the fourth result of encode(return_topk=True)")
        values, indices = (part.view(*x.shape[:-1], -1) for part in code)
        return dense, values, indices, carry(post_relu, (encoder, rows))

    def decode(self, x: Tensor) -> Tensor:
        code = carried(x) if self._runs(x) else None
        if code is None:
            return self._original_class.decode(self, x)
        return ops.sparse_decode(code, self._rows("decoder.weight"), self.b_dec).view(*x.shape[:-1], -1)


class AcceleratedTrainer:
    """Methods of a `TopKTrainer` whose auxiliary loss runs on the ops: with its own it reads dense pre-activations."""

    _original_class: ClassVar[Any]
    ae: Any
    num_tokens_since_fired: Tensor
    dead_feature_threshold: int
    top_k_aux: int
    dead_features: int
    pre_norm_auxk_loss: Any

    def get_auxiliary_loss(self, residual_BD: Tensor, post_relu_acts_BF: Tensor) -> Tensor:
        made_from = carried(post_relu_acts_BF)
        dead = (self.num_tokens_since_fired >= self.dead_feature_threshold).nonzero().flatten()
        if made_from is None or len(dead) == 0 or not self.ae._runs(residual_BD):
            return self._original_class.get_auxiliary_loss(self, residual_BD, post_relu_acts_BF)
        encoder, rows = made_from
        self.dead_features = len(dead)
        code = encoder.encode_among(rows, min(self.top_k_aux, len(dead)), dead)
        W_dec = self.ae._rows("decoder.weight")
        rebuilt = ops.sparse_decode(code, W_dec, zeros(W_dec, W_dec.shape[1]))
        self.pre_norm_auxk_loss = (residual_BD - rebuilt).square().sum(-1).mean()
        variance = (residual_BD - residual_BD.mean(0)).square().sum(-1).mean()
        return (self.pre_norm_auxk_loss / variance).nan_to_num(0.0)


def is_trainer(model: object) -> bool:
    """Whether this is a `TopKTrainer`, with the auxiliary loss of its library, and not of a subclass."""
    cls = type(model)
    return cls.__module__.endswith("dictionary_learning.trainers.top_k") and cls.__name__ == "TopKTrainer"


def take_over_trainer(trainer: Any) -> None:
    """Let a trainer's auxiliary loss run on the ops."""
    original = type(trainer)
    body = {"_original_class": original, "get_auxiliary_loss": AcceleratedTrainer.get_auxiliary_loss}
    trainer.__class__ = type(f"Accelerated{original.__name__}", (original, AcceleratedTrainer), body)

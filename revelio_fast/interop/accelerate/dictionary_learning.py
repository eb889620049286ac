"""dictionary_learning: `AutoEncoderTopK`, trained by its `TopKTrainer`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.interop.accelerate.base import Accelerated
from revelio_fast.interop.accelerate.lazy import carried, computed_when_read
from revelio_fast.interop.accelerate.sparse import Encoder


class DictionaryLearning(Accelerated):
    """`AutoEncoderTopK`. The AuxK loss is its trainer's: once latents are dead it reads the dense pre-activations."""

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
        return dense, values, indices, post_relu

    def decode(self, x: Tensor) -> Tensor:
        code = carried(x) if self._runs(x) else None
        if code is None:
            return self._original_class.decode(self, x)
        return ops.sparse_decode(code, self._rows("decoder.weight"), self.b_dec).view(*x.shape[:-1], -1)

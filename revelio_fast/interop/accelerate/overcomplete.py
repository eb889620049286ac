"""overcomplete: `TopKSAE` with a linear encoder, trained by its `train_sae`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from revelio_fast import ops
from revelio_fast.interop.accelerate.base import Accelerated, zeros
from revelio_fast.interop.accelerate.lazy import carried, computed_when_read
from revelio_fast.interop.accelerate.sparse import Encoder, unit_rows_


class Overcomplete(Accelerated):
    """`TopKSAE` with the default linear encoder, or tied or untied, and a dictionary normalised to l2."""

    library, package, distribution, versions = "overcomplete", "overcomplete", "overcomplete", ("0.3.",)
    latents_dims: ClassVar[dict[str, int]] = {"dictionary._weights": 0}
    replaced = ("encode", "decode", "get_dictionary")
    encoder: Any
    dictionary: Any
    top_k: int

    @classmethod
    def recognises(cls, model: Any) -> bool:
        return any(
            base.__module__.startswith("overcomplete.sae.") and base.__name__ == "SAE" for base in type(model).__mro__
        )

    @classmethod
    def refusal(cls, model: Any) -> str:
        if type(model).__name__ != "TopKSAE":
            return f"{type(model).__name__} is no TopK SAE of its library: only TopKSAE is known"
        dictionary, encoder = model.dictionary, model.encoder
        if type(dictionary).__name__ != "DictionaryLayer":
            return f"its dictionary is a {type(dictionary).__name__}, and only a DictionaryLayer is known"
        if getattr(dictionary.normalization, "__name__", "") != "normalize_l2":
            return "its dictionary is not normalised to l2, and only that normalisation runs on the ops"
        if _linear(encoder) is None:
            return (
                f"its encoder is a {type(encoder).__name__} with more than one linear layer and a ReLU: "
                "only the linear encoder, tied() and untied() run on the ops"
            )
        return ""

    def _encoder(self, x: Tensor) -> Encoder:
        linear = _linear(self.encoder)
        tied = getattr(self.encoder, "tied_to", None)
        W_enc = linear.weight if tied is None else self.get_dictionary()
        b_enc = zeros(W_enc, W_enc.shape[0]) if linear.bias is None else linear.bias
        return Encoder(W_enc, b_enc, zeros(W_enc, x.shape[-1]), True, self._accelerated.precision)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self._runs(x) or x.dim() != 2 or _linear(self.encoder) is None:
            return self._original_class.encode(self, x)
        encoder = self._encoder(x)
        codes = self._dense(encoder.encode(x, self.top_k), x)

        def compute(x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Tensor:
            return nn.functional.linear(x, W_enc, b_enc)

        inputs = (x, encoder.W_enc, encoder.b_enc)
        return computed_when_read(compute, inputs, codes.shape, "pre_codes"), codes

    def decode(self, z: Tensor) -> Tensor:
        code = carried(z) if self._runs(z) else None
        if code is None:
            return self._original_class.decode(self, z)
        D = self.get_dictionary()
        return ops.sparse_decode(code, D, zeros(D, D.shape[1]))

    def get_dictionary(self) -> Tensor:
        layer = self.dictionary
        plain = self.training and layer.training and not torch.compiler.is_compiling()
        if not plain or isinstance(layer.multiplier, nn.Parameter) or layer._weights.dtype != torch.float32:
            return self._original_class.get_dictionary(self)
        # The library makes new weights, twice in each step, and multiplies them by exp(0).
        rows = self._rows("dictionary._weights")
        unit_rows_(rows, 1e-8)
        return rows.view_as(rows)


def _linear(encoder: Any) -> Any:
    """What holds ``weight [n, d]`` (or is tied) and a bias, or None for any other encoder."""
    if type(encoder).__name__ == "TieableEncoder":
        return encoder
    if type(encoder).__name__ != "MLPEncoder" or len(encoder.mlp_blocks) or len(encoder.final_block) != 2:
        return None
    linear, norm = encoder.final_block
    plain = type(linear) is nn.Linear and type(norm) is nn.Identity and type(encoder.final_activation) is nn.ReLU
    return linear if plain else None

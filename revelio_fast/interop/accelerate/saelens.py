"""SAELens: `TopKSAE` and `TopKTrainingSAE`, trained by its `SAETrainer`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from revelio_fast import ops
from revelio_fast.interop.accelerate.base import Accelerated, zeros
from revelio_fast.interop.accelerate.lazy import carried, carry, computed_when_read
from revelio_fast.interop.accelerate.sparse import Encoder


class SAELens(Accelerated):
    """Selection and decoding, for both classes.

    With `rescale_acts_by_decoder_norm` the library multiplies scores by the norms of the decoder's rows, selects, and
    divides by them again before it decodes. The norms cancel there: the ops select by the scaled scores and decode the
    others, so that the norms' own gradient, zero but for rounding, is not computed.
    """

    library, package, distribution, versions = "SAELens", "sae_lens", "sae-lens", ("6.54.",)
    latents_dims: ClassVar[dict[str, int]] = {"W_enc": 1, "W_dec": 0}
    cfg: Any
    dtype: Any
    d_head: Any
    activation_fn: Any
    reshape_fn_in: Any
    reshape_fn_out: Any
    run_time_activation_norm_fn_in: Any
    run_time_activation_norm_fn_out: Any
    use_error_term: Any
    W_enc: Any
    W_dec: Any
    b_enc: Tensor
    b_dec: Tensor

    @classmethod
    def recognises(cls, model: Any) -> bool:
        return any(
            base.__module__.startswith("sae_lens.saes.") and base.__name__ == "SAE" for base in type(model).__mro__
        )

    @classmethod
    def refusal(cls, model: Any) -> str:
        if type(model).__name__ not in ("TopKSAE", "TopKTrainingSAE"):
            return f"{type(model).__name__} is no TopK SAE of its library: only TopKSAE and TopKTrainingSAE are known"
        if type(model.activation_fn).__name__ != "TopK":
            return f"its activation_fn is {type(model.activation_fn).__name__}, and only its library's TopK is known"
        if model.activation_fn.use_sparse_activations:
            return "use_sparse_activations=True makes its codes COO tensors, where ours are dense: set it to False"
        return ""

    def _selects(self, x: Tensor) -> bool:
        return (
            self._runs(x)
            and x.dim() >= 2
            and not self.use_error_term
            and type(self.activation_fn).__name__ == "TopK"
            and not self.activation_fn.use_sparse_activations
        )

    def _encode(self, x: Tensor) -> tuple[Tensor, Encoder, Tensor]:
        """Dense code, what it was made from, and the rows that it was made of."""
        x = self.run_time_activation_norm_fn_in(self.reshape_fn_in(x))
        W_dec = self._rows("W_dec")
        encoder = Encoder(
            self._rows("W_enc"),
            self.b_enc,
            self.b_dec if self.cfg.apply_b_dec_to_input else zeros(self.b_dec, x.shape[-1]),
            True,
            self._accelerated.precision,
            W_dec.norm(dim=-1) if self.cfg.rescale_acts_by_decoder_norm else None,
        )
        rows = x.reshape(-1, x.shape[-1])
        code = encoder.encode(rows, self.activation_fn.k)
        acts = code
        if encoder.scale is not None:
            acts = ops.Code(code.values * encoder.scale[code.indices], code.indices)
        return self._dense(acts, x, decoded=code), encoder, rows

    def decode(self, feature_acts: Tensor) -> Tensor:
        code = carried(feature_acts) if self._runs(feature_acts) and not self.use_error_term else None
        if code is None:
            return self._original_class.decode(self, feature_acts)
        sae_out = ops.sparse_decode(code, self._rows("W_dec"), self.b_dec).view(*feature_acts.shape[:-1], -1)
        return self.reshape_fn_out(self.run_time_activation_norm_fn_out(sae_out), self.d_head)


class SAELensInference(SAELens):
    """`TopKSAE`."""

    replaced = ("encode", "decode")

    @classmethod
    def recognises(cls, model: Any) -> bool:
        return super().recognises(model) and not hasattr(model, "encode_with_hidden_pre")

    def encode(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        return self._encode(x)[0] if self._selects(x) else self._original_class.encode(self, x)


class SAELensTraining(SAELens):
    """`TopKTrainingSAE`."""

    replaced = ("encode_with_hidden_pre", "decode", "calculate_topk_aux_loss")

    @classmethod
    def recognises(cls, model: Any) -> bool:
        return super().recognises(model) and hasattr(model, "encode_with_hidden_pre")

    def encode_with_hidden_pre(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.to(self.dtype)
        if not self._selects(x):
            return self._original_class.encode_with_hidden_pre(self, x)
        acts, encoder, rows = self._encode(x)
        scaled = encoder.scale is not None

        def compute(rows: Tensor, W_enc: Tensor, b_enc: Tensor, b_pre: Tensor, W_dec: Tensor) -> Tensor:
            scores = torch.addmm(b_enc, rows - b_pre, W_enc)
            return (scores * W_dec.norm(dim=-1) if scaled else scores).view(acts.shape)

        inputs = (rows, self.W_enc, self.b_enc, encoder.b_pre, self.W_dec)
        hidden_pre = computed_when_read(compute, inputs, acts.shape, "hidden_pre")
        return acts, carry(hidden_pre, (encoder, rows))

    def calculate_topk_aux_loss(
        self, sae_in: Tensor, sae_out: Tensor, hidden_pre: Tensor, dead_neuron_mask: Tensor | None
    ) -> Tensor:
        made_from = carried(hidden_pre)
        normalised = self.cfg.normalize_activations in ("constant_norm_rescale", "layer_norm")
        if made_from is None or dead_neuron_mask is None or normalised or not self._selects(sae_in):
            return self._original_class.calculate_topk_aux_loss(self, sae_in, sae_out, hidden_pre, dead_neuron_mask)
        dead = dead_neuron_mask.nonzero().flatten()
        if len(dead) == 0:
            return sae_out.new_tensor(0.0)
        encoder, rows = made_from
        k = sae_in.shape[-1] // 2
        weight = self.cfg.aux_loss_coefficient * min(len(dead) / k, 1.0)
        code = encoder._replace(relu=False).encode_among(rows, min(k, len(dead)), dead)
        missing = ops.sparse_decode(code, self._rows("W_dec"), zeros(self.b_dec, self.W_dec.shape[1]))
        missing = self.reshape_fn_out(missing.view(*hidden_pre.shape[:-1], -1), self.d_head)
        return weight * (missing - (sae_in - sae_out).detach()).square().sum(-1).mean()

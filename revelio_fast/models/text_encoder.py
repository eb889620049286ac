"""A text encoder with its tokenizer, loaded when it is first asked for and let go when it has been used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from revelio_fast.models.families import read_config
from revelio_fast.models.parts import load_part
from revelio_fast.models.spec import ModelSpec


class TextEncoder:
    """Prompts to whatever a text encoder of transformers gives.

    Parameters
    ----------
    spec : ModelSpec
    suffix : str
        ``"_2"`` for a pipeline's second encoder.
    length : int, optional
        Tokens of a prompt; the tokenizer's own number by default.
    """

    def __init__(self, spec: ModelSpec, suffix: str = "", length: int | None = None):
        self._spec = spec
        self._parts = f"tokenizer{suffix}", f"text_encoder{suffix}"
        self._length = length
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, prompts: Sequence[str], use_mask: bool = False, **options: Any) -> Any:
        """The encoder's output for padded prompts; `use_mask` hides the padding from its attention."""
        tokenizer, encoder = self._load()
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self._length or tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        mask: Tensor | None = None
        if use_mask or getattr(encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(self._spec.device)
        with torch.no_grad():
            return encoder(tokens.input_ids.to(self._spec.device), attention_mask=mask, **options)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            spec = self._spec
            index = read_config(spec.model, "model_index.json", spec.revision)
            tokenizer, encoder = self._parts
            self._loaded = (
                load_part(index[tokenizer][1], spec, tokenizer),
                load_part(index[encoder][1], spec, encoder, torch_dtype=spec.torch_dtype).to(spec.device),
            )
        return self._loaded

    def release(self) -> None:
        """Let go of the weights."""
        self._loaded = None

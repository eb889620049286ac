"""ActivationHooks on the outputs of a network's modules, and outputs of all kinds as feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Fold = Callable[[str, Any], Tensor | None]
"""From a layer's name and its module's output to a map ``[B, C, H, W]``, or None where there is none in it."""


def as_map(output: Any) -> Tensor | None:
    """A module's output as ``[B, C, H, W]``: tokens ``[B, h w, C]`` of a square grid are folded; else None.

    Tokens that are no square grid (those of the prompt) become ``[B, C, tokens, 1]``.
    """
    if isinstance(output, tuple | list):
        output = output[0]
    elif not isinstance(output, Tensor):
        output = getattr(output, "sample", None)
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return None
    if output.ndim == 4:
        return output
    tokens = output.shape[1]
    side = math.isqrt(tokens)
    return fold_tokens(output, *((side, side) if side * side == tokens else (tokens, 1)))


def fold_tokens(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens ``[B, height width, C]``, row after row, as a map ``[B, C, height, width]``."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)


class ActivationHooks:
    """Keeps the outputs of some modules of a network during a forward; call `clear` before each."""

    def __init__(self, network: nn.Module, paths: dict[str, str], fold: Fold):
        self.outputs: dict[str, Tensor | None] = {}
        self._fold = fold
        self._handles = [
            network.get_submodule(path).register_forward_hook(self._keeper(name)) for name, path in paths.items()
        ]

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.outputs[name] = self._fold(name, output)

        return keep

    def clear(self) -> None:
        self.outputs = {}

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

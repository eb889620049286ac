"""Layers of a diffusion transformer: block names, the truncation after the last wanted one, parameters up to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from revelio_fast.models.meta_model import Layout

STACKS = ("transformer_blocks", "single_transformer_blocks")
TAIL = ("norm_out", "proj_out", "proj_out_1", "proj_out_2")


class Head(nn.Module):
    """Takes the place of a projection behind the last wanted block: its width, from one column, without its work."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states[..., :1].expand(*hidden_states.shape[:-1], self.width)


class FirstArgument(nn.Module):
    """Takes the place of a norm that is modulated by the timestep."""

    def forward(self, hidden_states: Tensor, *_: Any) -> Tensor:
        return hidden_states


def layer_paths(network: Any) -> dict[str, str]:
    """Layer name -> module path, in the order of computation: ``block0``, ``block1`` .. through all stacks."""
    paths = [f"{stack}.{i}" for stack in STACKS for i in range(len(getattr(network, stack, ())))]
    return {f"block{i}": path for i, path in enumerate(paths)}


def stage(path: str) -> tuple[int, int]:
    """Where in the forward a module lies: (part, index within it). Parts: before, one a stack, tail or all."""
    head, _, rest = path.partition(".")
    if head in STACKS:
        return 1 + STACKS.index(head), int(rest.split(".")[0]) if rest else 1 << 30
    return (1 + len(STACKS), 0) if head in ("", *TAIL) else (0, 0)


def truncate(network: Any, paths: Sequence[str]) -> None:
    """Cut off, in place, the blocks after the last of `paths`; what is kept computes the same numbers.

    The class's forward still runs to its end: the head is replaced by modules that only keep its shapes.
    """
    last = max(stage(path) for path in paths)
    if last[0] > len(STACKS):
        return
    for stack in STACKS:
        blocks = getattr(network, stack, None)
        if blocks is not None:
            kept = [block for i, block in enumerate(blocks) if (1 + STACKS.index(stack), i) <= last]
            setattr(network, stack, nn.ModuleList(kept))
    for name, module in list(network.named_children()):
        if name.startswith("proj_out"):
            setattr(network, name, Head(module.out_features))
        elif name == "norm_out":
            setattr(network, name, FirstArgument())


def parameters_up_to(network: Any, path: str) -> int:
    """Parameters a forward uses up to the end of the block that holds `path`."""
    last = stage(path)
    return sum(p.numel() for name, p in network.named_parameters() if stage(name) <= last)


BLOCKS = Layout("transformer", "transformer", "transformer_blocks.1.ff", layer_paths, truncate, parameters_up_to)

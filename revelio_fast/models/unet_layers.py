"""Layers of a UNet: their names, the truncation after the last wanted one, and the parameters up to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from revelio_fast.models.meta_model import Layout

TAIL = ("conv_norm_out", "conv_act", "conv_out")


class PassThrough(nn.Module):
    """Ends a truncated UNet: takes the place of the next up block, so that the last real one is not the final one.

    The UNet tells every up block but its final one which size to upsample to; a cut that made a middle block final
    would change its output where the size is not a multiple of the overall stride.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([nn.Identity()])

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return hidden_states


def layer_paths(unet: Any) -> dict[str, str]:
    """Layer name -> module path, in the order of computation."""
    paths = {f"down_ft{i}": f"down_blocks.{i}" for i in range(len(unet.down_blocks))}
    if unet.mid_block is not None:
        paths["bottleneck"] = "mid_block"
    return paths | {f"up_ft{i}": f"up_blocks.{i}" for i in range(len(unet.up_blocks))}


def stage(path: str) -> tuple[int, int]:
    """Where in the forward a module lies: (part, index within it). Parts: before, down, mid, up, tail or all."""
    head, _, rest = path.partition(".")
    if head in ("down_blocks", "up_blocks"):
        return {"down_blocks": 1, "up_blocks": 3}[head], int(rest.split(".")[0]) if rest else 0
    return {"mid_block": (2, 0)}.get(head, (4, 0) if head in ("", *TAIL) else (0, 0))


def truncate(unet: Any, paths: Sequence[str]) -> None:
    """Cut off, in place, the blocks after the last of `paths`; what is kept computes the same numbers."""
    part, index = max(stage(path) for path in paths)
    if part == 4:
        return
    unet.conv_norm_out = None
    unet.conv_out = nn.Identity()
    if part < 3:
        unet.up_blocks = nn.ModuleList()
    elif index + 1 < len(unet.up_blocks):
        unet.up_blocks = nn.ModuleList([*unet.up_blocks[: index + 1], PassThrough()])
    if part < 2:
        unet.mid_block = None
    if part < 1 or (part == 1 and index + 1 < len(unet.down_blocks)):
        unet.down_blocks = unet.down_blocks[: index + 1 if part == 1 else 0]


def parameters_up_to(unet: Any, path: str) -> int:
    """Parameters a forward uses up to the end of the block that holds `path`."""
    last = stage(path)
    return sum(p.numel() for name, p in unet.named_parameters() if stage(name) <= last)


UNET = Layout("unet", "UNet", "up_blocks.1.resnets.0", layer_paths, truncate, parameters_up_to)

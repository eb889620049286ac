"""A network without weights, on which layers are looked up and their shapes and costs found without computing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from revelio_fast.models.families import LayerCost
from revelio_fast.models.hooks import ActivationHooks, Fold


class Layout(NamedTuple):
    """How networks of a kind are built.

    Attributes
    ----------
    part : str
        The pipeline's name for the network, which is its subfolder.
    words : str
        What messages call it.
    example : str
        A module path of most such networks.
    layer_paths : callable
        ``network -> {layer name: module path}`` in the order of computation.
    truncate : callable
        ``(network, module paths)``: cuts off in place what comes after the last of them.
    parameters_up_to : callable
        ``(network, module path) -> int``.
    """

    part: str
    words: str
    example: str
    layer_paths: Callable[[Any], dict[str, str]]
    truncate: Callable[[Any, Sequence[str]], None]
    parameters_up_to: Callable[[Any, str], int]


class MetaModel:
    """A network on PyTorch's meta device.

    Parameters
    ----------
    make : callable
        Builds the network; called under the meta device.
    layout : Layout
    inputs : callable
        The keyword arguments of a forward of one image; called under the meta device.
    fold : callable
        From a layer's output to a feature map.
    """

    def __init__(self, make: Callable[[], Any], layout: Layout, inputs: Callable[[], dict[str, Any]], fold: Fold):
        with torch.device("meta"):
            self.network = make().eval()
        self.paths = layout.layer_paths(self.network)
        self._layout = layout
        self._inputs = inputs
        self._fold = fold

    def shapes(self, paths: dict[str, str]) -> dict[str, tuple[int, int, int] | None]:
        """(C, H, W) of the layers in `paths`; None where an output is no map; absent where a module is not run."""
        taps = ActivationHooks(self.network, paths, self._fold)
        with torch.device("meta"):
            inputs = self._inputs()
        try:
            with torch.no_grad():
                self.network(**inputs)
        finally:
            taps.remove()
        return {
            name: None if out is None else tuple(out.shape[1:])  # type: ignore[misc]
            for name, out in taps.outputs.items()
        }

    def costs(self) -> list[LayerCost]:
        """All named layers in the order of computation."""
        from torch.utils.flop_counter import FlopCounterMode

        flops: dict[str, int] = {}
        with FlopCounterMode(display=False) as counter:

            def note(name: str) -> Any:
                return lambda *_: flops.__setitem__(name, counter.get_total_flops())

            handles = [
                self.network.get_submodule(path).register_forward_hook(note(name)) for name, path in self.paths.items()
            ]
            shapes = self.shapes(self.paths)
            total = counter.get_total_flops()
        for handle in handles:
            handle.remove()
        parameters = sum(p.numel() for p in self.network.parameters())
        return [
            LayerCost(
                name,
                shapes[name],  # type: ignore[arg-type]
                flops[name] / total,
                used := self._layout.parameters_up_to(self.network, path),
                used / parameters,
            )
            for name, path in self.paths.items()
        ]

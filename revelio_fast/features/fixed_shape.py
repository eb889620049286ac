"""One forward at a fixed batch shape: run as it is on the CPU, captured once as a CUDA graph and replayed on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3


class FixedShapeForward:
    """Calls ``function(noisy, timesteps) -> {name: Tensor}``; on CUDA through one graph per input shape.

    The outputs of a replay live in the graph's own memory and are overwritten by the next: they are copied out.

    Parameters
    ----------
    function : callable
        Reads nothing back to the host, and gives the same shapes for the same shapes.
    device : torch.device
    capture : bool
        False runs eagerly on CUDA too.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], dict[str, Tensor]],
        device: torch.device,
        capture: bool = True,
    ):
        self._function = function
        self._capture = capture and device.type == "cuda"
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, dict[str, Tensor]]] = {}

    def __call__(self, noisy: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
        if not self._capture:
            return self._function(noisy, timesteps)
        shape = tuple(noisy.shape)
        if shape not in self._graphs:
            self._graphs[shape] = self._captured(noisy, timesteps)
        graph, static_noisy, static_timesteps, outputs = self._graphs[shape]
        static_noisy.copy_(noisy)
        static_timesteps.copy_(timesteps)
        graph.replay()
        return {name: value.clone() for name, value in outputs.items()}

    def _captured(
        self, noisy: Tensor, timesteps: Tensor
    ) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, dict[str, Tensor]]:
        noisy, timesteps = noisy.clone(), timesteps.clone()
        side = torch.cuda.Stream(noisy.device)
        side.wait_stream(torch.cuda.current_stream(noisy.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._function(noisy, timesteps)
        torch.cuda.current_stream(noisy.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(noisy, timesteps)
        return graph, noisy, timesteps, outputs

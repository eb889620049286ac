"""`Stepper` takes the steps of a run one after another: as they come, or on a GPU as replays of one CUDA graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from revelio_fast.cuda_graph import capture_graph, warm_up_on_side_stream
from revelio_fast.ksae.config import KSAEConfig
from revelio_fast.ksae.engines import take_step
from revelio_fast.ksae.evaluation import note_activity
from revelio_fast.ksae.state import TrainingState
from revelio_fast.ops import adam_scalars, dispatch

WARM_UP = 3  # steps of each batch shape before its graph is captured: kernels are compiled and workspaces grow in them


class StepReport(NamedTuple):
    """Scalars of one step, on the device; those of a replayed graph are overwritten by the next step."""

    fvu: Tensor
    aux_loss: Tensor
    l0: Tensor


class Stepper:
    """Updates `state` by one step per call.

    A captured graph repeats its Python numbers for ever, so what changes from step to step is a table on the device,
    read at a counter that lives there too. Steps with the AuxK loss are not captured: how many latents are dead, and
    with it the shape of their code, is not known in advance.

    Parameters
    ----------
    state : TrainingState
    config : KSAEConfig
    dead_after : int
        Rows without being active after which a latent counts as dead.
    cuda : module
        ``torch.cuda``, or what stands for it in tests.
    capture : bool, optional
        By default on CUDA, for the fused engine without the AuxK loss; not where the encoder is the reference, which
        reads back.
    """

    def __init__(
        self,
        state: TrainingState,
        config: KSAEConfig,
        dead_after: int,
        *,
        cuda: Any = torch.cuda,
        capture: bool | None = None,
    ) -> None:
        self._state, self._config, self._dead_after, self._cuda = state, config, dead_after, cuda
        device = state.rows.W_enc.device
        can = config.engine == "fused" and not config.aux_k
        if capture is None:
            capture = device.type == "cuda" and dispatch.chosen("topk_encode", "cuda") != "torch"
        self._capture = can and capture
        self._graphs: dict[torch.Size, tuple[Any, Tensor, StepReport]] = {}
        self._seen: dict[torch.Size, int] = {}
        if device.type == "cpu" and config.engine == "fused":
            state.use_skip_mask()
        if self._capture:
            numbers = range(1, config.steps + 1)
            table = [adam_scalars(number, config.lr_at(number), *config.betas) for number in numbers]
            self._table = torch.tensor(table, dtype=torch.float32, device=device)
            self._place = torch.full((1,), state.step, dtype=torch.int64, device=device)

    def __call__(self, x: Tensor) -> StepReport:
        """Train on `x` ``[B, d]`` and count the step."""
        report = self._captured(x) if self._capture else self._eager(x)
        self._state.step += 1
        return report

    def _eager(self, x: Tensor) -> StepReport:
        state, config = self._state, self._config
        dead = (state.rows_since_active >= self._dead_after).nonzero().flatten() if config.aux_k else None
        code, fvu, aux_loss = take_step(state, x, config, dead)
        return StepReport(fvu, aux_loss, note_activity(state, code))

    def _captured(self, x: Tensor) -> StepReport:
        seen = self._seen.get(x.shape, 0)
        self._seen[x.shape] = seen + 1
        if seen < WARM_UP:
            return warm_up_on_side_stream(lambda: self._without_readback(x), x.device, self._cuda)
        if x.shape not in self._graphs:
            held = x.clone()
            graph, report = capture_graph(lambda: self._without_readback(held), held.device, self._cuda)
            self._graphs[x.shape] = graph, held, report
        graph, held, report = self._graphs[x.shape]
        held.copy_(x)
        graph.replay()
        return report

    def _without_readback(self, x: Tensor) -> StepReport:
        scalars = self._table.index_select(0, self._place).view(2)
        code, fvu, aux_loss = take_step(self._state, x, self._config, scalars=scalars)
        self._place += 1
        return StepReport(fvu, aux_loss, note_activity(self._state, code))

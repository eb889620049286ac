"""Commands that look: `layers` of a model, and `doctor` for this machine."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from revelio_fast.cli.flags import Fields, with_flags
from revelio_fast.cli.options import Json, show
from revelio_fast.models.families import layer_table
from revelio_fast.models.spec import MINI_SD, ModelConfig
from revelio_fast.settings import help_of


@with_flags
def layers(
    model: Annotated[str, typer.Argument(help=help_of(ModelConfig, "model"))] = MINI_SD,
    *,
    config: Annotated[ModelConfig, Fields(only=("revision", "image_size"))],
    as_json: Json = False,
) -> None:
    """List a model's layers with their shapes and the share of compute up to each."""
    rows = layer_table(model, config.image_size, config.revision)
    lines = [f"{'layer':<14}{'C x H x W':>18}{'compute up to it':>20}{'parameters':>16}"]
    for row in rows:
        shape = " x ".join(map(str, row.shape))
        lines.append(f"{row.name:<14}{shape:>18}{row.compute_share:>19.0%} {row.parameters:>15,}")
    show(as_json, [row._asdict() for row in rows], lines)


def doctor(
    gpu: Annotated[bool, typer.Option("--gpu", help="Check and measure every kernel on this machine's GPU.")] = False,
    as_json: Json = False,
) -> None:
    """Say what runs here: versions, processor, threads, and the backend of every op."""
    import torch

    from revelio_fast.ops import backends
    from revelio_fast.report import versions

    asked = os.environ.get("REVELIO_BACKEND")
    facts = {
        **versions(),
        "threads": f"{torch.get_num_threads()} (torch), OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}",
        "cpu extension": _cpu_extension(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "no device",
        "REVELIO_BACKEND": asked or "not set: the first that runs is used",
    }
    lines = [f"{name:<16}{value}" for name, value in facts.items()]
    lines += ["", f"{'op':<26}{'device':<8}{'backend':<9}runs here"]
    ops = []
    used: set[tuple[str, str]] = set()
    for status in backends():
        place = (status.op, status.device)
        present = status.device == "cpu" or torch.cuda.is_available()
        if status.reason:
            words = f"no: {status.reason}"
        elif not present:
            words = "no: there is no CUDA device"
        elif place in used:
            words = "yes"
        else:
            used.add(place)
            words = "yes, used"
        lines.append(f"{status.op:<26}{status.device:<8}{status.backend:<9}{words}")
        ops.append({"op": status.op, "device": status.device, "backend": status.backend, "runs": words})
    show(as_json, {**facts, "ops": ops}, lines)
    if gpu:
        from revelio_fast.gpu_check import check_gpu

        typer.echo("")
        if check_gpu(typer.echo)["failed"]:
            raise typer.Exit(1)


def _cpu_extension() -> str:
    from revelio_fast.ops.cpu_runtime import load, unavailable

    reason = unavailable()
    if reason:
        return f"not available: {reason}; PyTorch runs the ops instead"
    passed_over = load().passed_over()
    return f"built, instruction set {load().isa()}" + (f"; {passed_over}" if passed_over else "")

"""Commands that look: `layers` of a model, and `doctor` for this machine."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from revelio_fast.cli.options import ImageSize, Revision


def layers(
    model: Annotated[str, typer.Argument(help="'mini-sd', a folder in diffusers format, or a Hub id.")] = "mini-sd",
    image_size: ImageSize = None,
    revision: Revision = None,
) -> None:
    """List a model's layers with their shapes and the share of compute up to each."""
    from revelio_fast.models import layer_table
    from revelio_fast.pipeline import model_path

    typer.echo(f"{'layer':<14}{'C x H x W':>18}{'compute up to it':>20}{'parameters':>16}")
    for row in layer_table(model_path(model), image_size, revision):
        shape = " x ".join(map(str, row.shape))
        typer.echo(f"{row.name:<14}{shape:>18}{row.compute_share:>19.0%} {row.parameters:>15,}")


def doctor(
    gpu: Annotated[bool, typer.Option("--gpu", help="Check and measure every kernel on this machine's GPU.")] = False,
) -> None:
    """Say what runs here: versions, processor, threads, and the backend of every op."""
    import torch

    from revelio_fast.ops import backends
    from revelio_fast.report import versions

    for name, value in versions().items():
        typer.echo(f"{name:<16}{value}")
    typer.echo(f"{'threads':<16}{torch.get_num_threads()} (torch), OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    typer.echo(f"{'cpu extension':<16}{_cpu_extension()}")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    typer.echo(f"{'cuda':<16}{cuda}")
    asked = os.environ.get("REVELIO_BACKEND")
    typer.echo(f"{'REVELIO_BACKEND':<16}{asked or 'not set: the first that runs is used'}\n")
    typer.echo(f"{'op':<26}{'device':<8}{'backend':<9}runs here")
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
        typer.echo(f"{status.op:<26}{status.device:<8}{status.backend:<9}{words}")
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

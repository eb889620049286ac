"""`versions`: what a run was made with."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

PACKAGES = (
    "revelio-fast",
    "torch",
    "numpy",
    "safetensors",
    "diffusers",
    "transformers",
    "scikit-learn",
    "datasets",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results, processor, threads and GPU."""
    from revelio_fast import __version__

    found = {"revelio-fast": __version__, "python": platform.python_version()}
    for name in PACKAGES[1:]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["machine"] = f"{_processor()}, {os.cpu_count()} logical cores, {torch.get_num_threads()} torch threads"
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    found["system"] = platform.platform()
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""Whether Triton kernels can run in this process: on a GPU, or on CPU tensors in Triton's interpreter."""

import os

import torch

# Triton reads the variable when a kernel is defined, so it holds for the process.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# bfloat16 in tensor cores, and the oldest architecture that the kernels are compiled for in the tests
OLDEST = (8, 0)


def unavailable() -> str:
    """Why the kernels cannot run here; empty when they can."""
    if INTERPRETED:
        return ""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        return f"the device has compute capability {capability[0]}.{capability[1]}, the kernels need 8.0"
    return ""


def capability(device: torch.device) -> int:
    """Compute capability of `device` as one number, such as 90; the interpreter stands for the oldest."""
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else OLDEST
    return 10 * major + minor

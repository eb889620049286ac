"""Checks of the ops' arguments: each failure names the argument, what came and what was expected."""

import torch
from torch import Tensor


def tensor(name: str, value: object, shape: tuple[int | str, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Check that `value` is a dense tensor of `dtype` whose sizes match `shape` (a name stands for any size)."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    wanted = "[" + ", ".join(map(str, shape)) + "]"
    fits = value.dim() == len(shape) and all(
        isinstance(want, str) or want == have for want, have in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} must have shape {wanted}, got {list(value.shape)}")
    if value.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, got {value.dtype}: convert it with .to({dtype})")
    if value.layout != torch.strided:
        raise ValueError(f"{name} must be a dense (strided) tensor, got layout {value.layout}")
    return value


def same_device(**tensors: Tensor) -> torch.device:
    """Check that all tensors live on one device and return it."""
    names = list(tensors)
    first = tensors[names[0]].device
    for name in names[1:]:
        if tensors[name].device != first:
            raise ValueError(
                f"{name} is on {tensors[name].device} but {names[0]} is on {first}: move one with .to({str(first)!r})"
            )
    return first


def in_range(name: str, value: int, low: int, high: int, high_name: str) -> int:
    """Check ``low <= value <= high``; `high_name` says what the upper bound is."""
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise ValueError(f"{name} must be an int, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low} and {high_name} = {high}, got {value}")
    return value


def choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Check that `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def code(values: object, indices: object, rows: int | str = "B") -> tuple[Tensor, Tensor]:
    """Check the two tensors of a `Code` against each other."""
    checked = tensor("code.values", values, (rows, "k"))
    return checked, tensor("code.indices", indices, tuple(checked.shape), torch.int64)


def indices_in_range(indices: Tensor, n: int) -> None:
    """Check that every latent lies in ``[0, n)``; on a GPU nothing is read back, so nothing is checked."""
    if indices.device.type != "cpu" or indices.numel() == 0:
        return
    low, high = indices.aminmax()
    if low < 0 or high >= n:
        bad = int(low) if low < 0 else int(high)
        raise ValueError(f"code.indices must lie in [0, {n}), got {bad}")


def inverse(offsets: object, rows: object, slots: object, n: int, entries: int) -> None:
    """Check that an `InverseCode` belongs to a code of `entries` entries over `n` latents."""
    tensor("inverse.offsets", offsets, (n + 1,), torch.int64)
    tensor("inverse.rows", rows, (entries,), torch.int64)
    tensor("inverse.slots", slots, (entries,), torch.int64)

"""Random numbers by name: every part of a run draws from a stream of its own, derived from the run's one seed.

Streams of different names or counters are independent, so an initialisation never repeats the numbers of a shuffle, of
a data set or of another epoch. A stream follows from its name and counters alone: nothing has to be drawn before it,
and a resumed run finds it again.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, name: str, *counters: int) -> int:
    """The seed of a stream, for any generator.

    Parameters
    ----------
    seed : int
        The user's seed, any integer.
    name : str
        What the stream is for: ``"ksae.init"``, ``"crops"``.
    *counters : int
        Which of several streams of that name: an epoch, an image id, a timestep.

    Returns
    -------
    int
        63 bits of BLAKE2b over all three. CPU generators of PyTorch use the lower 32 of them.
    """
    key = "/".join([str(int(seed)), name, *(str(int(counter)) for counter in counters)])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, name: str, *counters: int) -> torch.Generator:
    """A CPU generator at the start of a stream; see `derive`."""
    return torch.Generator().manual_seed(derive(seed, name, *counters))


def numpy_generator(seed: int, name: str, *counters: int) -> np.random.Generator:
    """A NumPy generator at the start of a stream; see `derive`."""
    return np.random.default_rng(derive(seed, name, *counters))

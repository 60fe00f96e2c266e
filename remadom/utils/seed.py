"""One seed for everything random, and a stream of its own for each purpose."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, purpose: str, index: int = 0) -> int:
    """Seed of one purpose, the same on every machine and in every process.

    Parameters
    ----------
    seed
        The run's seed.
    purpose
        What the random numbers are for, such as ``"order"`` or ``"step"``.
    index
        Number of the epoch or of the step within the purpose.

    Returns
    -------
    int
        From 0 to 2**63 - 1, for ``numpy.random.default_rng`` and ``torch.Generator.manual_seed``.
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 the legacy generator is what other libraries use
    torch.manual_seed(seed % 2**63)


def seed_noise(device: torch.device, seed: int) -> None:
    """Seed PyTorch's generators of the CPU and of one device: cheap enough for every step (2 microseconds).

    ``torch.manual_seed`` reaches every device that there might be, which takes 200 microseconds.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def private_noise(device: torch.device) -> Iterator[None]:
    """Leave PyTorch's global generators (CPU and CUDA) afterwards as they were before."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        yield

"""The number of threads of torch, which other packages change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_kept() -> Iterator[None]:
    """Leave torch the number of threads that it has: numba, at work in UMAP and scanpy, sets that of their OpenMP."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)

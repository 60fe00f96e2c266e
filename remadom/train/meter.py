"""Means of logged scalars, read from the device once in a while instead of at every step."""

from __future__ import annotations

from collections import defaultdict

import torch

from remadom.types import Logs


class Meter:
    """Means over the cells of one epoch, and over the steps since the last reading.

    A name that only some batches log is averaged over the cells of those batches.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._unread: list[tuple[Logs, int]] = []
        self._sums: dict[str, float] = defaultdict(float)
        self._cells: dict[str, int] = defaultdict(int)
        self.cells = 0

    def __len__(self) -> int:
        """Steps since the last reading."""
        return len(self._unread)

    def add(self, logs: Logs, cells: int) -> None:
        """Take a step's detached scalars, means over ``cells`` cells; nothing is read yet."""
        self._unread.append((logs, cells))
        self.cells += cells

    def read(self) -> dict[str, float]:
        """Means since the last reading, in one transfer from the device."""
        sums: dict[str, float] = defaultdict(float)
        weights: dict[str, int] = defaultdict(int)
        scalars = [
            value.to(self.device, torch.float32) for logs, _ in self._unread for value in logs.values()
        ]
        values = iter(torch.stack(scalars).tolist() if scalars else [])
        for logs, cells in self._unread:
            for name in logs:
                sums[name] += cells * next(values)
                weights[name] += cells
        self._unread.clear()
        for name, weight in weights.items():
            self._sums[name] += sums[name]
            self._cells[name] += weight
        return _means(sums, weights)

    def epoch(self) -> dict[str, float]:
        """Means over everything that was read."""
        return _means(self._sums, self._cells)


def _means(sums: dict[str, float], cells: dict[str, int]) -> dict[str, float]:
    return {name: total / cells[name] for name, total in sums.items() if cells[name]}

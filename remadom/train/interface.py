"""What the trainer asks of the thing it trains and of the loaders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from remadom.types import Batch, Logs


class Trainable(Protocol):
    """An ``nn.Module`` with a loss, a score and an account of what is not finite."""

    def __call__(self, batch: Batch, epoch: float, /) -> tuple[Tensor, Logs]:
        """Scalar loss, mean per cell, and detached scalars by name."""
        ...

    def score(self, batch: Batch, /) -> Logs:
        """The same scalars for validation, comparable between epochs."""
        ...

    def blame(self, batch: Batch, epoch: float, /) -> list[tuple[str, Tensor]]:
        """Each term that is not finite, such as ``recon.rna``, with its mask over the cells."""
        ...

    def train(self) -> Any:
        """As in ``nn.Module``, like all that follow."""
        ...

    def eval(self) -> Any: ...
    def to(self, device: torch.device, /) -> Any: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any], /) -> Any: ...


@runtime_checkable
class Reorders(Protocol):
    """A loader whose order depends on the epoch."""

    def set_epoch(self, epoch: int, /) -> None:
        """Take the number of the epoch, from 0."""
        ...


@runtime_checkable
class Replayable(Protocol):
    """An objective that can record what it does on a GPU and do it again, for less than it takes to start it."""

    def replaying(self) -> AbstractContextManager[None]:
        """Do so within; it has been moved to its device."""
        ...


@runtime_checkable
class Staged(Protocol):
    """An objective with something to do around an epoch and after a backward pass."""

    def begin_epoch(self, epoch: int, n_steps: int, /) -> None:
        """Take the number of the epoch that begins, from 0, and that of its steps, 0 where it is not known."""
        ...

    def end_epoch(self, means: Mapping[str, float], /) -> None:
        """Take the means of the epoch's scalars."""
        ...

    def gradients(self) -> Logs:
        """Scalars that are known after the backward pass."""
        ...

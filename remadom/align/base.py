"""What an alignment head is: a term that makes cells of different measurements meet in the latent space."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from remadom.registry import Registry
from remadom.schedule import Scheduled, schedule_of
from remadom.types import Logs

INPUTS = {
    "z_bio": "the fused latent of the batch, cell x latent",
    "groups": "codes of the cells by name of the grouping; -1 is no group",
    "graph": "the kNN graph among the cells of the batch (structure.laplacian_enabled: true)",
    "edges": "the bridge's edges among the cells of the batch (bridge.provider)",
    "posteriors": "the posterior of each modality on its own",
    "time": "the time of each cell (data.time_key)",
    "features": "fixed features of each modality, cell x component",
    "epoch": "progress of the training in epochs",
    "aux": "all of these by name",
}
"""What a run can give a head, and where it comes from."""


class AlignmentHead(nn.Module, ABC):
    """A term of the loss on the latent; it returns its raw value per cell and never weighs itself.

    ``forward`` names the inputs that it needs among ``INPUTS``; a call may give more than that.

    Parameters
    ----------
    weight
        Weight of the term, in units of what it costs to put a cell in the place of another one: a number, or a
        schedule in epochs.
    """

    def __init__(self, *, weight: Scheduled = 0.1) -> None:
        super().__init__()
        self.weight = schedule_of(weight, "weight")

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Logs]:
        """Raw loss (a scalar) and detached scalars for the log."""

    def __call__(self, *args: Any, **inputs: Any) -> tuple[Tensor, Logs]:
        """``forward`` with those of the inputs that its signature names."""
        if "aux" not in inputs:
            inputs["aux"] = dict(inputs)
        chosen = {name: inputs[name] for name in self.inputs() if name in inputs}
        out: tuple[Tensor, Logs] = super().__call__(*args, **chosen)
        return out

    @classmethod
    def inputs(cls, *, required: bool = False) -> tuple[str, ...]:
        """Names of the inputs that :meth:`forward` reads; with ``required``, those that it cannot do without."""
        return _inputs(cls.forward, required)

    @property
    def recordable(self) -> bool:
        """Whether, on a GPU, ``forward`` does the same operations whatever the cells, so that they can be recorded.

        It then reads no other inputs than ``z_bio``, ``groups`` and ``posteriors``, and takes cells of no group and
        of no modality for absent.
        """
        return False

    @property
    def group_keys(self) -> tuple[str, ...]:
        """Groupings of the cells that the head compares, the coarsest first; none by default."""
        return ()

    def connect(self, names: Mapping[str, tuple[str, ...]], latent_dim: int) -> None:
        """Take what the data decides: the names of the groups of every grouping and the latent dimension.

        Raises
        ------
        InputError
            The data cannot be what the head needs.
        """


@cache  # heads are called at every step
def _inputs(forward: Callable[..., Any], required: bool) -> tuple[str, ...]:
    parameters = inspect.signature(forward).parameters
    return tuple(
        name
        for name, parameter in parameters.items()
        if name in INPUTS and not (required and parameter.default is not inspect.Parameter.empty)
    )


HEADS: Registry[AlignmentHead] = Registry("alignment head")

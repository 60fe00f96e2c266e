"""What a bridge is: it finds which cells of one measurement correspond to which of another."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from remadom.registry import Registry
from remadom.types import BridgeEdges

INPUTS = ("z_bio", "batches", "batch_names", "views", "seeds", "n_cells")
"""What a run can give a bridge: the latent of all cells (cell x latent tensor), their batch codes (tensor) and the
names of the batches, the views of the modalities by name, known pairs (:class:`BridgeEdges`), and the number of
cells."""


class Bridge(ABC):
    """Finds edges between cells; the parameters of :meth:`build` name what it looks at (see ``INPUTS``)."""

    @abstractmethod
    def build(self, *args: Any, **kwargs: Any) -> BridgeEdges:
        """Edges between the cells of the whole data set."""

    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        """Names of the inputs that :meth:`build` reads."""
        names = inspect.signature(cls.build).parameters
        return tuple(name for name in names if name in INPUTS)

    def build_from(self, inputs: Mapping[str, Any]) -> BridgeEdges:
        """:meth:`build` with those of the inputs that it names."""
        return self.build(**{name: inputs[name] for name in self.inputs() if name in inputs})


BRIDGES: Registry[Bridge] = Registry("bridge provider")

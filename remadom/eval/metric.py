"""What a metric is that a run computes because its configuration names it: one number, or several by name."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal

from remadom.errors import InputError
from remadom.registry import Registry

INPUTS = {
    "z_bio": "the embedding, cell x latent array: the means of the posteriors",
    "labels": "the label of each cell (evaluation.label_key), an array, or None where the data has none",
    "batches": "the name of the batch of each cell, an array, or None where there is one batch",
    "modalities": "which modalities each cell has, an array of text such as rna+adt",
    "obs": "what else is known of the cells, a data frame",
    "views": "the features of each modality by name, made comparable; positions are rows of the embedding",
    "seed": "the seed of the run, a whole number",
}
"""What a run can give a metric: of all cells, or of ``evaluation.max_cells`` that are drawn with the seed."""


class Metric(ABC):
    """Measures an embedding when training has ended; the parameters of :meth:`measure` name what it looks at.

    The first sentence of the docstring is what the report says of it.
    """

    better: Literal["higher", "lower", ""] = "higher"
    """Which way is better; empty where neither is."""

    @abstractmethod
    def measure(self, *args: Any, **kwargs: Any) -> float | Mapping[str, float] | None:
        """A number, or several by name; ``None`` and NaN are left out: the score is not defined for these cells."""

    @classmethod
    def inputs(cls) -> tuple[str, ...]:
        """Names of the inputs that :meth:`measure` reads (see ``INPUTS``)."""
        return tuple(name for name in inspect.signature(cls.measure).parameters if name in INPUTS)


METRICS: Registry[Metric] = Registry("metric")


def measured(metrics: Mapping[str, Metric], inputs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of some metrics: ``<metric>``, or ``<metric>.<name>`` where it gives several.

    Parameters
    ----------
    metrics
        By name.
    inputs
        At least those that they read.

    Raises
    ------
    InputError
        A metric gave something else than numbers.
    """
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        value = metric.measure(**{key: inputs[key] for key in metric.inputs()})
        parts = value if isinstance(value, Mapping) else {"": value}
        for part, number in parts.items():
            if number is not None and not isinstance(number, Real):
                raise InputError(
                    f"metric '{name}' gave {number!r} ({type(number).__name__}); expected a number, numbers by name, "
                    "or None where it is not defined"
                )
            if number is not None and math.isfinite(number):
                found[f"{name}.{part}" if part else name] = float(number)
    return found

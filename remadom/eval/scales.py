"""On which scale values are compared: counts on a log, at the depth of their cell, others as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from remadom.types import Support


def _same(values: np.ndarray) -> np.ndarray:
    return values


@dataclass(frozen=True)
class Scale:
    """A scale on which errors and intervals are measured.

    Attributes
    ----------
    words
        What it is, for tables and axes.
    to, back
        From values to the scale, and back.
    least, most
        Bounds of the values.
    depth
        Whether a cell's values are scaled to its true total before they are compared.
    """

    words: str
    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    least: float
    most: float
    depth: bool


COUNTS = Scale("log(1 + count)", np.log1p, np.expm1, 0.0, np.inf, depth=True)
REAL = Scale("values", _same, _same, -np.inf, np.inf, depth=False)
FRACTIONS = Scale("fractions", _same, _same, 0.0, 1.0, depth=False)


def scale_of(support: Support) -> Scale:
    """The scale of values of a support."""
    return {"real": REAL, "fractions": FRACTIONS}.get(support, COUNTS)

"""What all figures share: colors, sizes, names from the data as they are, and files written whole."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from remadom.errors import InputError
from remadom.utils.files import atomic

MOST_POINTS = 200_000
"""Most points that are drawn one by one; more are drawn by their density."""

MOST_GROUPS = 30
"""Most categories that have a color or a row of their own; the smaller ones are drawn as one."""

# Okabe and Ito's eight, then colors far from each other and from grey to normal, deutan and protan eyes
# (greedy farthest points in Oklab, color blindness after Machado et al. 2009, doi:10.1109/TVCG.2009.113).
PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442"),
    *("#760000", "#580080", "#E200FF", "#0000F5", "#005858", "#A73100", "#B11480", "#00CE80"),
    *("#8000BA", "#0080FF", "#147645", "#00FF9D", "#F5006C", "#FF80FF", "#E200BA", "#FF9393"),
    *("#2793CE", "#931445", "#00E214", "#009300", "#1D4E93", "#00EBFF"),
)
OTHER, MISSING = "#8A8A8A", "#D9D9D9"
SMALL, NORMAL = 8, 10
DPI = 150


class Groups(NamedTuple):
    """A column as drawn: a code for each cell into names and colors, the last of which is "no value"."""

    codes: np.ndarray
    names: list[str]
    colors: np.ndarray
    used: np.ndarray


def grouped(values: Sequence[Any] | np.ndarray) -> Groups:
    """Categories in the order of a reader; all but the largest ``MOST_GROUPS`` are one."""
    column = pd.Series(np.asarray(values, dtype=object))
    known = column.notna()
    text = column.astype(str)
    sizes = text[known].value_counts()
    kept = sorted(sizes.index[:MOST_GROUPS], key=natural)
    rest = len(sizes) - len(kept)
    place = {name: at for at, name in enumerate(kept)}
    codes = text.map(place).fillna(len(kept)).where(known, len(kept) + 1).to_numpy(int)
    n_missing = int((~known).sum())
    names = [*map(one_line, kept), f"other ({rest} smaller)", f"no value ({n_missing:,} cells)"]
    colors = np.array([*PALETTE[: len(kept)], OTHER, MISSING])
    return Groups(codes, names, colors, np.unique(codes))


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key of names: batch10 comes after batch2."""
    pieces: Iterable[str] = re.split(r"(\d+)", text.casefold())
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def one_line(text: str, length: int = 28) -> str:
    """A name from the data on one line: no control characters, the middle left out where it is very long."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= length else f"{line[: length - 12]}…{line[-11:]}"


def literal(text: Text) -> Text:
    """The same text with dollar signs as they are, not as mathematics."""
    text.set_parse_math(False)
    return text


def heading(axes: Axes, text: str, size: int = NORMAL) -> None:
    """Title of a panel, at its left."""
    literal(axes.set_title(text, loc="left", fontsize=size))


def plain_axes(axes: Axes, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Small ticks, no frame at top and right, a faint grid behind what is drawn."""
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, alpha=0.25, linewidth=0.6)


def names_at(axes: Axes, axis: str, names: Sequence[str]) -> None:
    """Names from the data as ticks 0, 1, 2 ... of the axis ``"x"`` or ``"y"``."""
    of = axes.xaxis if axis == "x" else axes.yaxis
    of.set_ticks(np.arange(len(names)), [one_line(name) for name in names], parse_math=False, fontsize=SMALL)


def empty(axes: Axes, words: str) -> None:
    """Say in a panel why nothing is drawn in it."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=SMALL)
    axes.set(xticks=[], yticks=[])


def same_shape(**arrays: np.ndarray) -> None:
    """See that the arrays of a figure have one shape.

    Raises
    ------
    InputError
        They have not; the message names their shapes.
    """
    shapes: Mapping[str, tuple[int, ...]] = {name: np.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"figure: found {found}; expected arrays of one shape")


@contextmanager
def any_glyph() -> Iterator[None]:
    """What the font lacks is drawn as a box, without a warning for each character."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def save(figure: Figure, path: str | Path) -> None:
    """Write PNG, SVG or PDF, by the ending of the path; atomically."""
    with atomic(path) as file, any_glyph():
        figure.savefig(file, format=Path(path).suffix[1:], dpi=DPI)

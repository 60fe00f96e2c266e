"""Figures of a run: how the losses fell, and the embedding colored by what is known of the cells."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from remadom.errors import InputError
from remadom.utils.files import atomic

MOST_POINTS = 200_000
"""Most cells that are drawn; of more, a random sample is."""

MOST_GROUPS = 30
"""Most categories that have a color of their own; the smaller ones are drawn as one."""

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


def draw_losses(history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw the loss over the epochs, training beside validation, and one small panel for each other term.

    Parameters
    ----------
    history
        One entry an epoch: ``epoch``, ``train`` and ``val``, means per cell by name (``elbo.loss``, ``elbo.kl``,
        ...). ``val`` may be empty or absent; a value that is missing or not finite leaves a gap.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    """
    logged = (name for entry in history for part in ("train", "val") for name in entry.get(part) or ())
    terms = [name for name in dict.fromkeys(logged) if name != "elbo.loss"]
    rows = math.ceil(len(terms) / 3)
    figure = Figure(figsize=(9, 3.6 + 1.9 * rows), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(rows + 1, 3, height_ratios=[1.9] + [1] * rows)
    main = figure.add_subplot(grid[0, :])
    _draw_term(main, history, "elbo.loss", NORMAL)
    main.set_ylabel("nats per cell", fontsize=SMALL)
    values = np.concatenate([line.get_ydata() for line in main.lines] or [np.zeros(0)])
    if values.size and np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
        main.set_yscale("log")
    for at, name in enumerate(terms):
        _draw_term(figure.add_subplot(grid[1 + at // 3, at % 3]), history, name, SMALL)
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    if lines:
        figure.legend(
            list(lines.values()),
            list(lines),
            loc="outside upper right",
            ncols=2,
            frameon=False,
            fontsize=SMALL,
        )
    else:
        main.text(0.5, 0.5, "no epoch was finished", transform=main.transAxes, ha="center")
        main.set(xticks=[], yticks=[])
    _save(figure, path)


def _draw_term(axes: Axes, history: Sequence[Mapping[str, Any]], name: str, size: int) -> None:
    epochs = np.array([entry["epoch"] for entry in history], dtype=float)
    for part, label, color in (("train", "training", PALETTE[0]), ("val", "validation", PALETTE[1])):
        logged = [(entry.get(part) or {}).get(name) for entry in history]
        values = np.array([math.nan if value is None else value for value in logged], dtype=float)
        values[~np.isfinite(values)] = math.nan
        if not np.isnan(values).all():
            marker = "." if len(epochs) <= 40 else ""
            axes.plot(epochs, values, color=color, label=label, marker=marker, linewidth=1.4)
    _literal(axes.set_title(_shown(name), loc="left", fontsize=size))
    axes.set_xlabel("epoch", fontsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def draw_embedding(
    xy: np.ndarray,
    columns: Mapping[str, Sequence[Any] | np.ndarray],
    path: str | Path,
    layout_name: str,
    *,
    seed: int = 0,
) -> None:
    """Draw the cells in a plane, one panel for each column, colored by its categories.

    Cells are drawn in random order, so that no category hides another, on top of those without a value (grey).

    Parameters
    ----------
    xy
        Cell x 2.
    columns
        Category of each cell (``None`` or NaN: none) by the title of its panel.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    layout_name
        Method of the layout, for the axes.
    seed
        Seed of the order, and of the sample where there are more than ``MOST_POINTS`` cells.

    Raises
    ------
    InputError
        ``xy`` is not a finite cell x 2 array, there is no column, or a column has another length.
    """
    xy = np.asarray(xy, dtype=float)
    if xy.ndim != 2 or xy.shape[1] != 2 or not np.isfinite(xy).all():
        raise InputError(f"figure: found coordinates of shape {xy.shape}; expected finite ones, cells x 2")
    wrong = {name: len(values) for name, values in columns.items() if len(values) != len(xy)}
    if wrong or not columns:
        raise InputError(f"figure: expected columns of {len(xy)} values, found {wrong or 'no column'}")
    order = np.random.default_rng(seed).permutation(len(xy))[:MOST_POINTS]
    figure = Figure(facecolor="white")
    for title, values in columns.items():
        axes = figure.add_subplot()
        _draw_groups(axes, xy, order, _grouped(values))
        _literal(axes.set_title(_shown(title), loc="left", fontsize=NORMAL))
        _literal(axes.set_xlabel(f"{layout_name} 1", fontsize=SMALL))
        _literal(axes.set_ylabel(f"{layout_name} 2", fontsize=SMALL))
    drawn = f"{len(order):,} drawn at random of " if len(order) < len(xy) else ""
    figure.text(0.5, 0.01, f"{drawn}{len(xy):,} cell{'s'[: len(xy) != 1]}", ha="center", fontsize=SMALL)
    with _any_glyph():
        _place(figure)
    _save(figure, path)


def _place(figure: Figure) -> None:
    """Two square panels a row, each with room for the names in its legend; all measures in inches."""
    panel, left, top, bottom, foot = 4.0, 0.35, 0.4, 0.35, 0.25
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    legends = [axes.get_legend() for axes in figure.axes]
    room = [legend.get_window_extent(renderer).width / figure.dpi for legend in legends if legend]
    widths = [left + panel + 0.2 + max(room[column::2]) for column in range(min(2, len(room)))]
    rows, row_height = math.ceil(len(room) / 2), top + panel + bottom
    width, height = sum(widths), foot + rows * row_height
    figure.set_size_inches(width, height)
    for at, axes in enumerate(figure.axes):
        x = left + sum(widths[: at % 2])
        y = foot + bottom + (rows - 1 - at // 2) * row_height
        axes.set_position((x / width, y / height, panel / width, panel / height))


class _Groups(NamedTuple):
    """A column as drawn: a code for each cell into names and colors, the last of which is "no value"."""

    codes: np.ndarray
    names: list[str]
    colors: np.ndarray
    used: np.ndarray


def _grouped(values: Sequence[Any] | np.ndarray) -> _Groups:
    column = pd.Series(np.asarray(values, dtype=object))
    known = column.notna()
    text = column.astype(str)
    sizes = text[known].value_counts()
    kept = sorted(sizes.index[:MOST_GROUPS], key=_natural)
    rest = len(sizes) - len(kept)
    place = {name: at for at, name in enumerate(kept)}
    codes = text.map(place).fillna(len(kept)).where(known, len(kept) + 1).to_numpy(int)
    n_missing = int((~known).sum())
    names = [*map(_shown, kept), f"other ({rest} smaller)", f"no value ({n_missing:,} cells)"]
    colors = np.array([*PALETTE[: len(kept)], OTHER, MISSING])
    return _Groups(codes, names, colors, np.unique(codes))


def _draw_groups(axes: Axes, xy: np.ndarray, order: np.ndarray, of: _Groups) -> None:
    area = min(16.0, max(0.4, 350 / math.sqrt(max(1, len(order)))))
    missing = of.codes[order] == len(of.names) - 1
    for layer in (order[missing], order[~missing]):
        at = xy[layer]
        axes.scatter(at[:, 0], at[:, 1], s=area, c=of.colors[of.codes[layer]], linewidths=0, rasterized=True)
    dots = [
        Line2D([], [], color=color, marker="o", markersize=5, linestyle="") for color in of.colors[of.used]
    ]
    legend = axes.legend(
        dots,
        [""] * len(dots),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.01),
        ncols=math.ceil(len(dots) / 16) or 1,
        fontsize=SMALL,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.0,
    )
    for text, at in zip(legend.get_texts(), of.used, strict=True):
        _literal(text).set_text(of.names[at])
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#BBBBBB")


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts batch10 after batch2."""
    pieces: Iterable[str] = re.split(r"(\d+)", text.casefold())
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def _shown(text: str, length: int = 28) -> str:
    """A name from the data on one line: no control characters, the middle left out where it is very long."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= length else f"{line[: length - 12]}…{line[-11:]}"


def _literal(text: Text) -> Text:
    """The same text with dollar signs as they are, not as mathematics."""
    text.set_parse_math(False)
    return text


@contextmanager
def _any_glyph() -> Iterator[None]:
    """What the font lacks is drawn as a box, without a warning for each character."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def _save(figure: Figure, path: str | Path) -> None:
    with atomic(path) as file, _any_glyph():
        figure.savefig(file, format=Path(path).suffix[1:], dpi=DPI)

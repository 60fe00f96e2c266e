"""How the losses of a run fell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from remadom.eval.figures.drawing import NORMAL, PALETTE, SMALL, heading, one_line, plain_axes, save


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
    save(figure, path)


def _draw_term(axes: Axes, history: Sequence[Mapping[str, Any]], name: str, size: int) -> None:
    epochs = np.array([entry["epoch"] for entry in history], dtype=float)
    for part, label, color in (("train", "training", PALETTE[0]), ("val", "validation", PALETTE[1])):
        logged = [(entry.get(part) or {}).get(name) for entry in history]
        values = np.array([math.nan if value is None else value for value in logged], dtype=float)
        values[~np.isfinite(values)] = math.nan
        if not np.isnan(values).all():
            marker = "." if len(epochs) <= 40 else ""
            axes.plot(epochs, values, color=color, label=label, marker=marker, linewidth=1.4)
    heading(axes, one_line(name), size)
    axes.set_xlabel("epoch", fontsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.ticklabel_format(axis="y", useOffset=False)
    plain_axes(axes)

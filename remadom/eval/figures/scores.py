"""Scores beside their baselines, and errors against what is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remadom.errors import InputError
from remadom.eval.figures.drawing import (
    PALETTE,
    SMALL,
    empty,
    heading,
    literal,
    names_at,
    one_line,
    plain_axes,
    save,
)

OURS, THEIRS = PALETTE[0], "#A6A6A6"


def draw_scores(
    scores: Mapping[str, Mapping[str, float | None]],
    path: str | Path,
    *,
    name: str,
    better: Literal["higher", "lower"] = "higher",
    ours: str = "remadom",
) -> None:
    """Draw a score of several methods as bars, one panel for each target; the best is named so.

    Parameters
    ----------
    scores
        By target, the score of each method; ``None`` or NaN where a method has none.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    name
        The score.
    better
        Whether a higher or a lower score is better.
    ours
        The method whose bar is colored.

    Raises
    ------
    InputError
        There is no target.
    """
    if not scores:
        raise InputError(f"figure: found no target with a {name}; expected at least one")
    columns = min(3, len(scores))
    rows = math.ceil(len(scores) / columns)
    most = max(len(methods) for methods in scores.values())
    figure = Figure(figsize=(0.8 + 3.4 * columns, rows * (0.9 + 0.36 * most)), layout="constrained")
    figure.set_facecolor("white")
    for at, (target, methods) in enumerate(scores.items()):
        axes = figure.add_subplot(rows, columns, at + 1)
        _draw_bars(axes, methods, better, ours)
        heading(axes, one_line(target))
        literal(axes.set_xlabel(f"{name} ({better} is better)", fontsize=SMALL))
    save(figure, path)


def _draw_bars(axes: Axes, methods: Mapping[str, float | None], better: str, ours: str) -> None:
    values = np.array([math.nan if value is None else value for value in methods.values()], dtype=float)
    if np.isnan(values).all():
        empty(axes, "no method has a score")
        return
    best = np.nanmax(values) if better == "higher" else np.nanmin(values)
    colors = [OURS if method == ours else THEIRS for method in methods]
    axes.barh(np.arange(len(values)), np.nan_to_num(values), color=colors, height=0.7)
    for at, value in enumerate(values):
        words = "none" if math.isnan(value) else f"{value:.3f}" + (" best" if value == best else "")
        axes.annotate(
            f" {words}",
            (max(0.0, 0.0 if math.isnan(value) else value), at),
            va="center",
            fontsize=SMALL,
            fontweight="bold" if value == best else "normal",
        )
    names_at(axes, "y", list(methods))
    low, high = min(0.0, np.nanmin(values)), max(0.0, np.nanmax(values))
    axes.set(xlim=(1.05 * low, high + 0.32 * (high - low or 1.0)), ylim=(len(values) - 0.5, -0.5))
    axes.axvline(0, color="#444444", linewidth=0.8)
    plain_axes(axes, grid="x")


def draw_sweep(
    shares: Sequence[float] | np.ndarray,
    errors: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    name: str = "RMSE",
    over: str = "share of the cells without the modality, %",
    title: str = "",
) -> None:
    """Draw an error against the share that is missing: the mean over the seeds, and from least to greatest.

    Parameters
    ----------
    shares
        Missing shares, 0 to 1, ascending.
    errors
        By method, seed x share; NaN where there is no value.
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    name
        The error.
    over
        What the share is of, in percent.
    title
        What was imputed.

    Raises
    ------
    InputError
        A method has not one error for each share and seed.
    """
    shares = np.asarray(shares, dtype=float)
    rows = {method: np.atleast_2d(np.asarray(values, dtype=float)) for method, values in errors.items()}
    wrong = {method: values.shape for method, values in rows.items() if values.shape[1:] != shares.shape}
    if wrong or not rows:
        raise InputError(f"figure: expected seed x {len(shares)} shares, found {wrong or 'no method'}")
    figure = Figure(figsize=(6.4, 3.8), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    looks = zip(cycle(PALETTE[:7]), cycle("os^Dv"), cycle(("-", "--", ":", "-.")), strict=False)
    for (method, values), (color, marker, line) in zip(rows.items(), looks, strict=False):
        known = np.ma.masked_invalid(values)
        mean, low, high = (part.filled(math.nan) for part in (known.mean(0), known.min(0), known.max(0)))
        axes.fill_between(100 * shares, low, high, color=color, alpha=0.18, linewidth=0)
        axes.plot(
            100 * shares, mean, color=color, marker=marker, linestyle=line, markersize=4, linewidth=1.5,
            label=one_line(method),
        )  # fmt: skip
    seeds = max(len(values) for values in rows.values())
    spread = f"mean of {seeds} seeds, from least to greatest" if seeds > 1 else "one seed"
    heading(axes, f"{one_line(title)}: {spread}" if title else spread)
    literal(axes.set_xlabel(over, fontsize=SMALL))
    literal(axes.set_ylabel(name, fontsize=SMALL))
    plain_axes(axes)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=SMALL, frameon=False)
    for text in legend.get_texts():
        literal(text)
    save(figure, path)

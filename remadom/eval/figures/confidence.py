"""How often labels of a confidence are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from remadom.eval.figures.drawing import OTHER, PALETTE, SMALL, heading, one_line, plain_axes, save


def draw_confidence(curve: Sequence[tuple[float, float, int]], path: str | Path, *, title: str = "") -> None:
    """Draw the share of right labels by confidence; below the dashed line labels promise too much.

    Parameters
    ----------
    curve
        Mean confidence, share of right labels and cells of each bin (see
        :func:`~remadom.eval.confidence.calibration_curve`).
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    title
        Which labels.
    """
    figure = Figure(figsize=(4.2, 4.0), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.axline((0, 0), slope=1, color=OTHER, linestyle="--", linewidth=1)
    said, was, cells = ([point[i] for point in curve] for i in range(3))
    most = max(cells, default=1)
    axes.plot([100 * x for x in said], [100 * y for y in was], color=PALETTE[0], linewidth=1.2)
    axes.scatter(
        [100 * x for x in said],
        [100 * y for y in was],
        s=[12 + 120 * n / most for n in cells],
        color=PALETTE[0],
    )
    axes.set(xlim=(-3, 103), ylim=(-3, 103), aspect="equal")
    axes.text(98, 2, "too sure", ha="right", fontsize=SMALL, color="#444444")
    axes.text(2, 97, "too modest", va="top", fontsize=SMALL, color="#444444")
    axes.set_xlabel("confidence, % (larger points: more cells)", fontsize=SMALL)
    axes.set_ylabel("right labels, %", fontsize=SMALL)
    heading(axes, one_line(title or "confidence of labels"))
    plain_axes(axes)
    save(figure, path)

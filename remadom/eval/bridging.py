"""What a bridge's edges are worth: coverage, degrees, agreement of labels, and a figure of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from remadom.bridges.filtering import label_agreement
from remadom.eval.figures import DPI, MISSING, MOST_GROUPS, NORMAL, OTHER, PALETTE, SMALL
from remadom.eval.labels import Labels
from remadom.types import BridgeEdges
from remadom.utils.files import atomic

DRAWN = 120
"""Most edges of a figure."""
POINTS = 2000
"""Most cells of a side of a figure, beside the ends of its edges."""
APART = "#6B6B6B"
"""Color of edges whose ends have different labels."""


class Side(NamedTuple):
    """Some cells (positions in the data set, ascending) in a plane, cell x 2."""

    cells: np.ndarray
    xy: np.ndarray


def bridge_metrics(
    edges: BridgeEdges,
    *,
    modalities: Mapping[str, np.ndarray] | None = None,
    groups: Mapping[str, Labels] | None = None,
    labels: Labels | None = None,
) -> dict[str, Any]:
    """Measures of edges between cells of one data set.

    Parameters
    ----------
    edges
        Between the cells of the whole data set.
    modalities
        Positions of the cells of each modality.
    groups
        One value a cell by the name of the grouping; missing values belong to no group.
    labels
        One value a cell; missing values are left out.

    Returns
    -------
    dict
        Those of :meth:`BridgeEdges.diagnostics`; ``degree_median`` of the cells that have an edge; ``same_cell``,
        the share of edges that join a cell with itself (as a cell with both modalities can be);
        ``coverage_by_modality`` and, by grouping, ``coverage_by_group``: share of the cells that have an edge, on
        whichever side.
        With labels on both ends of an edge: ``label_agreement`` (share of edges, also ``_weighted`` by weight
        times confidence), ``label_agreement_chance`` (that of the same ends joined at random),
        ``n_labeled_edges``, and ``label_agreement_by_label`` (of the source).
    """
    src, dst = edges.src.cpu().numpy(), edges.dst.cpu().numpy()
    degree = np.bincount(np.r_[src, dst], minlength=edges.n_cells)
    covered = degree > 0
    metrics: dict[str, Any] = dict(edges.diagnostics())
    metrics["degree_median"] = float(np.median(degree[covered])) if covered.any() else 0.0
    metrics["same_cell"] = float((src == dst).mean()) if len(src) else 0.0
    metrics["coverage_by_modality"] = {
        name: float(covered[cells].mean()) for name, cells in (modalities or {}).items() if len(cells)
    }
    metrics["coverage_by_group"] = {
        key: {
            str(name): float(share)
            for name, share in pd.Series(covered).groupby(_plain(values)).mean().items()
        }
        for key, values in (groups or {}).items()
    }
    if labels is not None:
        agreement = label_agreement(edges, _plain(labels))
        if agreement["n_labeled_edges"]:
            metrics |= agreement | _in_detail(edges, _plain(labels))
    return metrics


def _in_detail(edges: BridgeEdges, labels: np.ndarray) -> dict[str, Any]:
    """Agreement weighted, and by the label of the source."""
    src, dst = labels[edges.src.cpu().numpy()], labels[edges.dst.cpu().numpy()]
    weight = (edges.weight * edges.confidence).cpu().numpy().astype(float)
    frame = pd.DataFrame({"label": src, "same": src == dst, "weight": weight})
    frame = frame[pd.notna(src) & pd.notna(dst)]
    total = frame["weight"].sum()
    weighted = {} if total <= 0 else {"weighted": (frame["same"] * frame["weight"]).sum() / total}
    by_label = frame.groupby("label")["same"].mean()
    return {
        **{f"label_agreement_{name}": float(value) for name, value in weighted.items()},
        "label_agreement_by_label": {str(label): float(share) for label, share in by_label.items()},
    }


def drawn_edges(edges: BridgeEdges, *, seed: int = 0) -> BridgeEdges:
    """A sample of at most ``DRAWN`` edges, in their order."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(edges))[:DRAWN])
    return edges.take(order.sort().values)


def drawn_cells(cells: np.ndarray, edges: BridgeEdges, *, seed: int = 0) -> np.ndarray:
    """Those of the cells that these edges end at, and at most ``POINTS`` others, ascending."""
    ends = np.isin(cells, torch.cat([edges.src, edges.dst]).cpu().numpy())
    others = np.random.default_rng(seed).permutation(np.flatnonzero(~ends))[:POINTS]
    return np.sort(np.r_[cells[ends], cells[others]])


def draw_bridge_edges(
    sides: Mapping[str, Side],
    edges: BridgeEdges,
    path: str | Path,
    *,
    labels: Labels | None = None,
    label_name: str = "",
    title: str = "",
    layout_name: str = "",
) -> None:
    """Draw edges between the cells of two planes side by side, or within one plane.

    An edge has the color of the label of its ends, and is grey and dashed where they differ.

    Parameters
    ----------
    sides
        One plane, or two, by the name that stands above; an edge is drawn where both of its ends are in them.
    edges
        The edges to draw, few enough to be told apart (:func:`drawn_edges`).
    path
        PNG, SVG or PDF file, by its ending; written atomically.
    labels
        One value for each cell of the data set.
    label_name, title, layout_name
        Heading of the legend; words above the figure; method of the planes.
    """
    assert 1 <= len(sides) <= 2, "one plane or two"
    figure = Figure(
        figsize=(5.2 + 4.4 * (len(sides) - 1) + 1.8, 5.2), layout="constrained", facecolor="white"
    )
    axes = figure.add_subplot()
    codes, names, colors = _colors(labels, edges.n_cells)
    place = np.full((len(sides), edges.n_cells, 2), math.nan)
    for at, (name, side) in enumerate(sides.items()):
        place[at, side.cells] = _in_square(side.xy) + np.array([1.5 * at, 0])
        shown = place[at, side.cells]
        size = min(14.0, max(4.0, 6000 / max(1, len(shown))))
        axes.scatter(
            shown[:, 0],
            shown[:, 1],
            s=size,
            c=colors[codes[side.cells]],
            linewidths=0,
            alpha=0.6,
            rasterized=True,
        )
        heading = f"{name}" + (f" ({layout_name})" if layout_name else "")
        axes.text(1.5 * at + 0.5, 1.05, heading, ha="center", fontsize=NORMAL, parse_math=False)
    n_apart = _draw_lines(axes, place, edges, codes, colors)
    _legend(axes, names, colors, codes, [side.cells for side in sides.values()], n_apart, label_name)
    axes.set(xlim=(-0.04, 1.5 * (len(sides) - 1) + 1.04), ylim=(-0.04, 1.12), aspect="equal")
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=NORMAL, parse_math=False)
    with atomic(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:], dpi=DPI)


def _draw_lines(
    axes: Axes, place: np.ndarray, edges: BridgeEdges, codes: np.ndarray, colors: np.ndarray
) -> int:
    """Draw the edges; how many of them join different labels."""
    src, dst = edges.src.cpu().numpy(), edges.dst.cpu().numpy()
    first, last = place[0], place[-1]
    swapped = np.isnan(first[src, 0]) | np.isnan(last[dst, 0])
    src, dst = np.where(swapped, dst, src), np.where(swapped, src, dst)
    lines = np.stack([first[src], last[dst]], 1)
    here = np.isfinite(lines).all((1, 2))
    lines, src, dst = lines[here], src[here], dst[here]
    known = len(colors) - 1  # the last color is that of no value
    apart = (codes[src] != codes[dst]) & (codes[src] < known) & (codes[dst] < known)
    axes.add_collection(
        LineCollection(list(lines[apart]), colors=APART, linewidths=0.8, linestyles="--", alpha=0.6)
    )
    known_end = np.minimum(codes[src], codes[dst])[~apart]
    same = np.where(known_end < known, colors[known_end], OTHER)
    axes.add_collection(LineCollection(list(lines[~apart]), colors=same, linewidths=0.9, alpha=0.8))
    return int(apart.sum())


def _legend(
    axes: Axes,
    names: Sequence[str],
    colors: np.ndarray,
    codes: np.ndarray,
    cells: Sequence[np.ndarray],
    n_apart: int,
    heading: str,
) -> None:
    used = np.unique(codes[np.concatenate(cells)])
    if len(names) == 1:
        return
    marks = [Line2D([], [], color=colors[at], marker="o", markersize=5, linestyle="") for at in used]
    words = [names[at] for at in used]
    if n_apart:
        marks.append(Line2D([], [], color=APART, linestyle="--", linewidth=1))
        words.append("ends differ")
    legend = axes.legend(
        marks, words, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=SMALL, frameon=False,
        ncols=math.ceil(len(words) / 22), title=heading, title_fontsize=SMALL, alignment="left",
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colors(labels: Labels | None, n_cells: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Code of each cell into names and colors; the last of them is that of no value."""
    if labels is None:
        return np.zeros(n_cells, dtype=int), ["no value"], np.array([MISSING])
    column = pd.Series(_plain(labels))
    kept = sorted(column.value_counts().index[:MOST_GROUPS])
    place = {name: at for at, name in enumerate(kept)}
    codes = column.map(place).fillna(len(kept)).where(column.notna(), len(kept) + 1).to_numpy(int)
    names = [*kept, "other", "no value"]
    return codes, names, np.array([*PALETTE[: len(kept)], OTHER, MISSING])


def _in_square(xy: np.ndarray) -> np.ndarray:
    """The plane within 0 and 1; a few cells far out do not shrink the others."""
    low, high = np.quantile(xy, 0.002, axis=0), np.quantile(xy, 0.998, axis=0)
    square: np.ndarray = np.clip((xy - low) / np.maximum(high - low, 1e-12), -0.03, 1.03)
    return square


def _plain(values: Labels) -> np.ndarray:
    """Text of each value, ``None`` where there is none."""
    column = pd.Series(np.asarray(values, dtype=object))
    text: np.ndarray = column.astype(str).where(column.notna(), None).to_numpy(object)
    return text

"""The verb behind ``remadom bridge``: edges between the cells of a file, measured and drawn, without training."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from remadom.bridges import BRIDGES
from remadom.bridges.filtering import filter_edges
from remadom.config.components import build_bridge
from remadom.config.load import validate
from remadom.config.schema import BridgeSettings
from remadom.data.modality import Kind
from remadom.data.obs import column_of, group_codes
from remadom.data.seeds import known_pairs
from remadom.data.views import views_in
from remadom.errors import InputError
from remadom.eval.bridging import Side, bridge_metrics, draw_bridge_edges, drawn_cells, drawn_edges
from remadom.eval.layout import plane
from remadom.types import BridgeEdges, View
from remadom.utils.outputs import BRIDGE, RunDir, write_arrays

SECTION = ("seeds", "max_edges", "normalize")
"""Keys of the section ``bridge`` that have a meaning without training."""
EDGES = "edges.npz"
FIGURE = "bridge_edges.png"


@dataclass(frozen=True)
class Linked:
    """Edges of a file: where they were written, and their measures."""

    dir: Path
    edges: BridgeEdges
    metrics: dict[str, Any]


def bridge(
    file: Any,
    provider: str,
    out: str | Path,
    *,
    modalities: Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    label_key: str = "cell_type",
    batch_key: str = "batch",
    overwrite: bool = False,
) -> Linked:
    """Find the edges between the cells of a file, measure and draw them.

    Writes ``edges.npz`` (``src`` and ``dst``, names of cells; ``weight``, ``confidence``), ``bridge_metrics.json``
    and ``bridge_edges.png``.

    Parameters
    ----------
    file
        Path of an h5ad, h5mu or zarr file, or AnnData, MuData or a mapping of AnnData. Equal names are the same
        cell.
    provider
        Name of the bridge.
    out
        Folder to write to.
    modalities
        What to link, see :func:`remadom.data.views.views_in`; may be left out where there are only two. A bridge
        that works in one space (``mnn``) reads the principal components of the first, in the cells that have it.
    params
        Parameters of the bridge, and ``seeds`` (known pairs), ``max_edges`` and ``normalize`` as in the section
        ``bridge`` of a configuration.
    kinds
        What to read a modality as, where that is not clear from its values.
    label_key
        Column of obs with the cell types, for measures and the figure; left out where it is missing.
    batch_key
        Column of obs with the batches.
    overwrite
        Replace what an earlier call has written there.

    Raises
    ------
    InputError
        Anything about provider, file or folder that cannot work, an input of the provider that the file has not,
        or no edge. Nothing has been written then.
    """
    settings = _settings(provider, dict(params or {}))
    component = build_bridge(settings)
    assert component is not None
    reads = component.inputs()
    folder = RunDir(out)
    if (folder / BRIDGE).exists() and not overwrite:
        raise InputError(f"{folder / BRIDGE} exists; choose another --out, or give --overwrite")
    views, obs = views_in(file, modalities, kinds=kinds)
    if "z_bio" in reads:
        views, obs = _one_space(views, obs)
    elif modalities is None and len(views) > 2:
        raise InputError(
            f"the data has {len(views)} modalities ({', '.join(views)}), expected two to link; name them with "
            "--modalities, for example --modalities " + ",".join(list(views)[:2])
        )
    started = time.perf_counter()
    edges = component.build_from(_inputs(reads, settings, views, obs, batch_key))
    if not len(edges):
        raise InputError(
            f"bridge '{provider}' found no edge; change its parameters, or choose another provider"
        )
    edges = filter_edges(edges, max_edges=settings.max_edges, normalize=settings.normalize)
    seconds = time.perf_counter() - started
    labels = obs[label_key].to_numpy(object) if label_key in obs else None
    measured = bridge_metrics(
        edges,
        modalities={name: view.cells for name, view in views.items()},
        groups={batch_key: obs[batch_key].to_numpy(object)} if batch_key in obs else {},
        labels=labels,
    )
    metrics = {
        "provider": provider,
        "parameters": dict(params or {}),
        "data": str(file) if isinstance(file, str | Path) else None,
        "modalities": {name: [len(view), len(view.names)] for name, view in views.items()},
        "n_cells": len(obs),
        "seconds": round(seconds, 3),
        **measured,
    }
    names = np.asarray(obs.index, dtype=np.str_)
    write_arrays(
        folder / EDGES,
        {
            "src": names[edges.src.numpy()],
            "dst": names[edges.dst.numpy()],
            "weight": edges.weight.numpy(),
            "confidence": edges.confidence.numpy(),
        },
    )
    shown, name = (labels, label_key) if labels is not None else (obs.get(batch_key), batch_key)
    _draw(views, edges, folder / FIGURE, shown, name, metrics)
    folder.write_json(BRIDGE, metrics)
    return Linked(folder.path, edges, metrics)


def _settings(provider: str, params: dict[str, Any]) -> BridgeSettings:
    """The section ``bridge`` of a configuration that would find these edges."""
    BRIDGES.section(provider)
    own = {key: params.pop(key) for key in SECTION if key in params}
    return validate({"bridge": {"provider": provider, **own, provider: params}}).bridge


def _one_space(views: Mapping[str, View], obs: pd.DataFrame) -> tuple[dict[str, View], pd.DataFrame]:
    """The first modality and the cells that have it, numbered anew."""
    name, view = next(iter(views.items()))
    here = view.at(np.arange(len(view)))
    return {name: here}, obs.iloc[view.cells]


def _inputs(
    reads: Sequence[str],
    settings: BridgeSettings,
    views: Mapping[str, View],
    obs: pd.DataFrame,
    batch_key: str,
) -> dict[str, Any]:
    """What the provider reads, from the file."""
    given: dict[str, Any] = {"views": views, "n_cells": len(obs)}
    if "views" in reads and len(views) < 2:
        raise InputError(
            f"bridge '{settings.provider}' links two modalities, found {', '.join(views)}; name two matrices with "
            "--modalities, or choose a provider that links batches (mnn)"
        )
    if "z_bio" in reads:
        given["z_bio"] = torch.from_numpy(next(iter(views.values())).scores)
    if "batches" in reads:
        codes, given["batch_names"] = group_codes(column_of(obs, batch_key))
        given["batches"] = torch.from_numpy(codes)
    if "seeds" in reads:
        given["seeds"] = known_pairs(obs, settings.seeds)
    return given


def _draw(
    views: Mapping[str, View],
    edges: BridgeEdges,
    path: Path,
    labels: Any,
    label_name: str,
    metrics: Mapping[str, Any],
) -> None:
    """Draw a sample of the edges, between the first two modalities or within the only one."""
    sample = drawn_edges(edges)
    sides, method = {}, ""
    for name, view in list(views.items())[:2]:
        cells = drawn_cells(view.cells, sample)
        xy, method = plane(view.scores[np.searchsorted(view.cells, cells)])
        sides[name] = Side(cells, xy)
    words = f"{len(sample):,} of {len(edges):,} edges by {metrics['provider']}"
    if "label_agreement" in metrics:
        words += (
            f"; {metrics['label_agreement']:.0%} of all join equal labels "
            f"(by chance {metrics['label_agreement_chance']:.0%})"
        )
    draw_bridge_edges(
        sides, sample, path, labels=labels, label_name=label_name, title=words, layout_name=method
    )

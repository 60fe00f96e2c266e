"""Views of the modalities: of a prepared source, or of any matrices of a file, whatever their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData

from remadom.data.annotated import Content, content_of
from remadom.data.cells import cells_of
from remadom.data.files import DataFile
from remadom.data.locate import MAIN, Place, known_as, locate, matrices_of
from remadom.data.modality import MODALITIES, Kind, modality_named
from remadom.data.normalize import clr, lognorm, tfidf
from remadom.data.source import Source
from remadom.errors import InputError, nearest
from remadom.types import View

SCORES = 100
"""Most columns of a matrix that is taken for scores where its values are no counts."""
FEW = 50
"""Most columns of whole numbers that are taken for scores too, unless they are proteins: in so few genes or peaks
the total of a cell says nothing about its depth."""


def views_of(
    source: Source, cells: np.ndarray | None = None, among: Sequence[str] | None = None
) -> dict[str, View]:
    """Views of the modalities of a source, made comparable as the modality's entry in the registry says.

    Parameters
    ----------
    source
        The cells.
    cells
        Positions of the cells to see; ``None`` for all.
    among
        The modalities to see; ``None`` for all.
    """
    wanted = np.arange(source.n_cells) if cells is None else np.sort(cells)
    views = {}
    for modality in source.modalities if among is None else among:
        here = wanted[source.has[modality][wanted]]
        names = tuple(map(str, source.features[modality]))
        views[modality] = _view(modality, here, source.rows(modality, here), names, kind_of(modality), None)
    return views


def views_in(
    data: str | Path | AnnData | MuData | Mapping[str, AnnData],
    names: Sequence[str] | None = None,
    *,
    kinds: Mapping[str, Kind] | None = None,
) -> tuple[dict[str, View], pd.DataFrame]:
    """Views of matrices by name, and what is known of the cells; equal names are the same cell.

    A matrix whose values are non-negative whole numbers holds counts: they are normalized as a known modality
    (by its name, its place or the look of its feature names) is, and as RNA otherwise. Other values are taken as
    they are: as scores up to ``SCORES`` columns, as comparable features above. Up to ``FEW`` columns of whole
    numbers are scores too (rounded topics, for example), unless the modality is normalized within a cell (``clr``).

    Parameters
    ----------
    data
        File or objects.
    names
        The modalities of a MuData (``gene_activity``) or matrices in them (``rna:obsm:X_pca``); modalities
        (``adt``) or matrices (``layers:spliced``, ``obsm:X_atac``) of an AnnData. ``None``: every modality of it.
    kinds
        What to read a matrix as, by name, where the rule above is wrong.

    Returns
    -------
    views
        In the order of ``names``; positions of cells are rows of ``obs``.
    obs
        The index is the names of the cells.

    Raises
    ------
    InputError
        A name that there is not, values that are missing or infinite or cannot be read as the kind asked for.
    """
    kinds = kinds or {}
    for name, kind in kinds.items():
        if kind not in get_args(Kind):
            raise InputError(f"{name}: unknown kind '{kind}': {nearest(kind, get_args(Kind))}")
    file = DataFile(data) if isinstance(data, (str, Path)) else None
    with file.reading() if file else nullcontext():
        content = content_of(file or data, backed=False)
        places = {name: _place(content, name) for name in names or _all(content)}
        unknown = [name for name in kinds if name not in places]
        if unknown:
            raise InputError(f"a kind is given for '{unknown[0]}': {nearest(unknown[0], places)}")
        cells = cells_of(content, places)
        matrices, features = matrices_of({m: content.parts[p.part] for m, p in places.items()}, places)
        views = {}
        for name, place in places.items():
            here = np.flatnonzero(cells.has[name])
            rows = matrices[name].rows(cells.rows[name][here])
            usual = _usual(name, place, features[name])
            usual = "scores" if usual != "clr" and rows.shape[1] <= FEW else usual
            views[name] = _view(name, here, rows, tuple(map(str, features[name])), usual, kinds.get(name))
    return views, cells.obs


def among(views: Mapping[str, View], names: pd.Index, wanted: pd.Index) -> dict[str, View]:
    """The same views with the positions of their cells among other names; cells that are not there are left out.

    Parameters
    ----------
    views
        With positions in ``names``.
    names, wanted
        Names of the cells, and those of another data set.
    """
    placed = {}
    for name, view in views.items():
        at = wanted.get_indexer(names[view.cells])
        kept = np.flatnonzero(at >= 0)
        kept = kept[np.argsort(at[kept])]
        placed[name] = View(view.name, at[kept], view.features[kept], view.names, view.ready)
    return placed


def _view(
    name: str, cells: np.ndarray, rows: sp.csr_matrix, names: tuple[str, ...], usual: Kind, asked: Kind | None
) -> View:
    """A view of raw rows: read as what was asked for, else as usual if they are counts."""
    if not np.isfinite(rows.data).all():
        wrong = int((~np.isfinite(rows.data)).sum())
        raise InputError(f"{name}: {wrong} values are missing or infinite; remove these cells or features")
    counts = bool((rows.data >= 0).all() and (rows.data == np.rint(rows.data)).all())
    kind = asked or (usual if counts else "scores" if rows.shape[1] <= SCORES else "features")
    if kind in NORMALIZED:
        if not counts:
            raise InputError(
                f"{name} holds negative or fractional values, expected counts to be read as {kind}; name the "
                "matrix that holds the counts, or read it as features or scores"
            )
        return View(name, cells, NORMALIZED[kind](rows), names)
    return View(name, cells, rows.toarray() if kind == "scores" else rows, names, ready=kind == "scores")


def _lognorm(counts: sp.csr_matrix) -> sp.csr_matrix:
    return lognorm(counts, np.asarray(counts.sum(axis=1)).ravel())


def _tfidf(counts: sp.csr_matrix) -> sp.csr_matrix:
    totals = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    idf = np.divide(counts.shape[0], totals, out=np.zeros_like(totals), where=totals > 0)
    return tfidf(counts, idf)


NORMALIZED: dict[str, Callable[[sp.csr_matrix], np.ndarray | sp.csr_matrix]] = {
    "lognorm": _lognorm,
    "tfidf": _tfidf,
    "clr": lambda counts: clr(counts.toarray()),
}
"""Counts made comparable, by the name that a modality's entry has for it."""


def kind_of(modality: str) -> Kind:
    """What the values of a modality are read as."""
    entry = modality_named(modality)
    usual: Kind = entry.encoder_input if entry.encoder_input in NORMALIZED else "lognorm"  # type: ignore[assignment]
    return entry.comparable or usual


def _all(content: Content) -> list[str]:
    return list(locate(content, {}, None)[0]) if content.single else list(content.parts)


def _place(content: Content, name: str) -> Place:
    """Where a matrix is."""
    parts = content.parts
    if content.single:
        found = {key.partition(":")[2]: key for key in parts[""].keys if ":" in key}
        found |= {key: key for key in parts[""].keys}
        if name in found:
            return Place("", found[name])
        modality = known_as(name)
        if modality:
            places = locate(content, {}, None)[0]
            if modality in places:
                return places[modality]
            found |= dict.fromkeys(places, "")
        raise InputError(f"the data has no modality or matrix '{name}': {nearest(name, found)}")
    part, _, key = name.partition(":")
    if part not in parts:
        alike = [other for other in parts if known_as(other) and known_as(other) == known_as(part)]
        if len(alike) != 1:
            raise InputError(f"the data has no modality '{part}': {nearest(part, parts)}")
        part = alike[0]
    keys = parts[part].keys
    key = key or next((main for main in MAIN if main in keys), "")
    if key not in keys:
        raise InputError(f"{part} has no matrix '{key or 'X'}': {nearest(key, keys)}")
    return Place(part, key)


def _usual(name: str, place: Place, features: pd.Index) -> Kind:
    """How counts of a matrix are normalized."""
    said = known_as(name) or known_as(place.part)
    key = next((m.name for m in MODALITIES.values() if place.key in m.keys and place.key not in MAIN), None)
    modality = said or key or _looks_like(features)
    return kind_of(modality) if modality else "lognorm"


def _looks_like(features: pd.Index) -> str | None:
    """Modality whose feature names are of a form that these have."""
    for modality in MODALITIES.values():
        form = modality.feature_names
        if form and all(re.fullmatch(form, str(name)) for name in features[:100]):
            return modality.name
    return None

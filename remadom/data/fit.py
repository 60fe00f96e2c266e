"""Preprocessing fitted on training cells, as the configuration asks for it."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np

from remadom.data.hvg import select_genes
from remadom.data.lsi import fit_lsi
from remadom.data.peaks import open_cells, select_peaks
from remadom.data.prepared import Prepared, Steps
from remadom.data.sampler import blocks
from remadom.data.settings import ATACPreprocess, DataSettings, FeatureSelection, RNAPreprocess
from remadom.data.source import Source
from remadom.data.split import cell_positions
from remadom.errors import InputError

logger = logging.getLogger(__name__)


def fit_preprocess(source: Source, settings: DataSettings, train: np.ndarray | None) -> Prepared:
    """Fit what ``data.preprocess`` asks for on training cells, which are read in blocks.

    Scanpy's gene selection holds the whole matrix of these cells, the decomposition of the peaks that of at most
    50,000 of them.

    Parameters
    ----------
    source
        The cells.
    settings
        Section ``data`` of the configuration.
    train
        Positions or mask of the cells to fit on; ``None`` for all.

    Raises
    ------
    InputError
        No training cell has one of the modalities, or the data cannot meet a setting.
    """
    train = cell_positions(train, source.n_cells)
    steps = {}
    for modality in source.modalities:
        cells = train[source.has[modality][train]]
        if not len(cells):
            raise InputError(
                f"{modality}: none of {len(train)} training cells has it; leave it out with data.modalities, "
                "or put cells that have it into the training part"
            )
        steps[modality] = fit_steps(source, modality, settings, cells)
    for modality, section in settings.preprocess:
        if modality not in steps and section != type(section)():
            logger.warning("data.preprocess.%s has no effect: the data has %s", modality, ", ".join(steps))
    return Prepared(steps)


def fit_steps(source: Source, modality: str, settings: DataSettings, cells: np.ndarray) -> Steps:
    """Preprocessing of one modality, fitted on cells that have it."""
    section = settings.preprocess.of(modality)
    columns = np.arange(len(source.features[modality]))
    lsi, stored = None, None
    if modality in source.reps:
        section = FeatureSelection()
        notes = [f"{len(columns)} components read from {source.places[modality]}"]
    elif isinstance(section, RNAPreprocess):
        columns, notes = _genes(
            source, modality, section, cells, source.codes(settings.batch_key, required=False)[0]
        )
    else:
        columns, notes = _shown(source, modality, section, cells)
    if len(columns) < len(source.features[modality]):
        source = source.select(modality, columns)
    binary = isinstance(section, ATACPreprocess) and section.binarize
    if binary:
        source = source.binarize(modality)
        notes.append("every count above zero is read as one")
    if isinstance(section, ATACPreprocess) and section.lsi.enabled:
        key = section.lsi.obsm_key
        rep = source.stored_rep(key, modality)
        if rep is not None:
            stored = (key, rep.shape[1])
            notes.append(
                f"the encoder reads the {rep.shape[1]} components that the data has in obsm['{key}']"
            )
        else:
            lsi = fit_lsi(
                partial(source.rows, modality),
                cells,
                n_components=section.lsi.n_components,
                drop_depth=section.lsi.drop_depth,
            )
            notes += [f"the encoder reads {lsi.n_components} LSI components", f"LSI {lsi.depth_note}"]
    total, rates = _depth(source, modality, cells)
    return Steps(
        features=source.features[modality].tolist(),
        notes=tuple(notes),
        binary=binary,
        lsi=lsi,
        stored=stored,
        total=total,
        rates=rates,
    )


def _genes(
    source: Source, modality: str, section: RNAPreprocess, cells: np.ndarray, batches: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    n_genes = len(source.features[modality])
    if section.hvg is None or section.hvg >= n_genes:
        asked = (
            f" (hvg asks for {section.hvg:,})" if section.hvg is not None and section.hvg > n_genes else ""
        )
        return np.arange(n_genes), [f"all {n_genes:,} genes{asked}"]
    chosen = select_genes(
        partial(source.rows, modality), cells, batches[cells], n_top=section.hvg, flavor=section.flavor
    )
    return np.flatnonzero(chosen.selected), [f"{section.hvg:,} of {n_genes:,} genes by {chosen.how}"]


def _shown(
    source: Source, modality: str, section: ATACPreprocess | FeatureSelection, cells: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """The features that enough cells show."""
    n_features = len(source.features[modality])
    peaks = isinstance(section, ATACPreprocess)
    what, seen = ("peaks", "open") if peaks else ("features", "above 0")
    if not section.min_cells and (section.n_top is None or section.n_top >= n_features):
        asked = (
            f" (n_top asks for {section.n_top:,})"
            if section.n_top is not None and section.n_top > n_features
            else ""
        )
        return np.arange(n_features), [f"all {n_features:,} {what}{asked}"]
    n_open = open_cells(partial(source.rows, modality), cells)
    kept = select_peaks(
        n_open, len(cells), min_cells=section.min_cells, n_top=section.n_top, modality=modality
    )
    return kept, [
        f"{len(kept):,} of {n_features:,} {what}, each {seen} in at least {n_open[kept].min():,} of "
        f"{len(cells):,} cells"
    ]


def _depth(source: Source, modality: str, cells: np.ndarray) -> tuple[float, np.ndarray]:
    """Median total of the cells (1 where it is zero), and the share of each feature in all that was counted."""
    totals, sums = [], np.zeros(len(source.features[modality]))
    for _, rows in blocks(partial(source.rows, modality), cells):
        totals.append(np.asarray(rows.sum(axis=1)).ravel())
        sums += np.abs(np.asarray(rows.sum(axis=0, dtype=np.float64)).ravel())
    return float(np.median(np.concatenate(totals))) or 1.0, (sums / (sums.sum() or 1.0)).astype(np.float32)

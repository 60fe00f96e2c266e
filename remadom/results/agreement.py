"""Whether the modalities of a run tell the same of a cell, and whether its cohorts were aligned."""

from __future__ import annotations

from typing import Any

import numpy as np

from remadom.config.build import Assembly
from remadom.data.views import views_of
from remadom.eval.modalities import modality_metrics
from remadom.eval.trust import trust
from remadom.results.arrays import batches_of, labels_of, patterns_of
from remadom.results.imputation import alone
from remadom.train.embedding import embed_cells
from remadom.types import Latent
from remadom.utils.seed import derive

FEWEST = 50
"""Cells below which a better set of pairs is passed over for a larger one."""


def modalities(assembly: Assembly) -> dict[str, dict[str, Any]]:
    """Agreement of each pair of modalities, by cells embedded from each of the two alone.

    Cells that are known to have both tell how near their two embeddings are: those whose pairing was kept out of
    training; else the validation and test cells; else all (``pairs`` says which). Where single cells of either
    modality exist, labels are transferred between these, as a user would (``labels_from``).
    """
    source, settings = assembly.source, assembly.config.evaluation
    encoded = [m for m in source.modalities if m in assembly.model.encoders]
    labels = labels_of(assembly)
    found: dict[str, dict[str, Any]] = {}
    for i, a in enumerate(encoded):
        for b in encoded[i + 1 :]:
            both, words = paired_cells(assembly, a, b)
            scores: dict[str, Any] = {}
            if len(both):
                each = {m: embedded_from(assembly, m, both) for m in (a, b)}
                scores = _measured(assembly, each, {a: both, b: both}, labels) | {"pairs": words}
            only = {m: _draw(assembly, _only(assembly, m), settings.max_cells) for m in (a, b)}
            if min(map(len, only.values())) >= FEWEST:
                each = {m: embedded_from(assembly, m, cells) for m, cells in only.items()}
                apart = _measured(assembly, each, only, labels)
                scores |= {k: v for k, v in apart.items() if k != "n_paired"}
                scores["labels_from"] = "cells of one modality"
            elif len(both):
                scores["labels_from"] = "the pairs"
            if scores:
                found[f"{a}-{b}"] = scores
    return found


def paired_cells(assembly: Assembly, a: str, b: str) -> tuple[np.ndarray, str]:
    """Cells that are known to have both modalities, the less was trained on them the better, and which in words."""
    known = assembly.measured.has[a] & assembly.measured.has[b]
    trained = assembly.source.has[a] & assembly.source.has[b]
    unseen = np.zeros(len(known), dtype=bool)
    unseen[assembly.split.val] = unseen[assembly.split.test] = True
    choices = (
        (known & ~trained, "kept apart in training"),
        (trained & unseen, "validation and test cells"),
        (known, "trained on"),
    )
    most = assembly.config.evaluation.max_cells
    for mask, words in choices:
        if mask.sum() >= FEWEST:
            return _draw(assembly, np.flatnonzero(mask), most), words
    return _draw(assembly, np.flatnonzero(known), most), "trained on"


def embedded_from(assembly: Assembly, modality: str, cells: np.ndarray) -> np.ndarray:
    """Embedding of cells from one modality alone, cell x latent."""
    source = alone(assembly.measured, modality, cells)
    return embed_cells(assembly.model, assembly.loader(cells, source)).z_bio.numpy()


def trusted(assembly: Assembly, latent: Latent) -> dict[str, Any] | None:
    """Whether the cohorts (batches; without batches, cells of different modalities) were aligned.

    ``None`` where there is but one cohort.
    """
    source, settings = assembly.source, assembly.config.evaluation
    cohorts = batches_of(assembly)
    if cohorts is None:
        cohorts = patterns_of(assembly)
    if len(np.unique(cohorts)) < 2:
        return None
    cells = _spread(cohorts, settings.max_cells, derive(assembly.config.optim.seed, "trust"))
    place = np.full(source.n_cells, -1)
    place[cells] = np.arange(len(cells))
    views = {name: view.at(place[view.cells]) for name, view in views_of(source, cells).items() if len(view)}
    several = np.sum([source.has[m][cells] for m in source.modalities], axis=0) > 1
    encoded = [m for m in source.modalities if m in assembly.model.encoders]
    unimodal = {}
    for modality in encoded:
        own = np.flatnonzero(several & source.has[modality][cells])
        if len(own):
            unimodal[modality] = (own, embedded_from(assembly, modality, cells[own]))
    labels = labels_of(assembly)
    return trust(
        latent.z_bio.numpy()[cells],
        cohorts[cells],
        views,
        unimodal=unimodal,
        labels=None if labels is None else labels[cells],
        seed=assembly.config.optim.seed,
        max_cells=settings.max_cells,
    )


def _measured(
    assembly: Assembly, each: dict[str, np.ndarray], cells: dict[str, np.ndarray], labels: Any
) -> dict[str, Any]:
    """The one section that two modalities have."""
    scores = modality_metrics(
        each,
        cells,
        labels,
        max_cells=assembly.config.evaluation.max_cells,
        seed=assembly.config.optim.seed,
    )
    return next(iter(scores.values()))


def _only(assembly: Assembly, modality: str) -> np.ndarray:
    """Cells that have a modality and no other, as trained on."""
    has = assembly.source.has
    others = np.any([has[m] for m in assembly.source.modalities if m != modality], axis=0)
    return np.flatnonzero(has[modality] & ~others)


def _draw(assembly: Assembly, cells: np.ndarray, most: int) -> np.ndarray:
    rng = np.random.default_rng(derive(assembly.config.optim.seed, "agreement"))
    return np.sort(rng.permutation(cells)[:most])


def _spread(groups: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most so many cells, as evenly from the groups as these allow, ascending."""
    order = np.random.default_rng(seed).permutation(len(groups))
    _, code = np.unique(groups[order], return_inverse=True)
    rank = np.empty(len(code), dtype=int)
    by_group = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[by_group], code[by_group])
    rank[by_group] = np.arange(len(code)) - starts
    return np.sort(order[np.argsort(rank, kind="stable")[:most]])

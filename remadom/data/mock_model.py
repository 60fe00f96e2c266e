"""Generate a mock data set in memory: the truth of every modality, and what of it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from remadom.data.mock_assays import ASSAYS, Regime
from remadom.data.mock_cells import (
    AXES,
    MODALITIES,
    PROBLEMS,
    TYPES,
    Cells,
    Codes,
    Floats,
    Mask,
    draw_cells,
    draw_masks,
    draw_split,
)
from remadom.errors import InputError, nearest

FEWEST_FEATURES = {"rna": 20, "atac": 20, "adt": 4}
FEWEST_CELLS = 2 * len(TYPES)
"""Cells that every batch needs."""


@dataclass(frozen=True)
class MockData:
    """A generated data set.

    Attributes
    ----------
    problem
        Problem type.
    modalities
        Its modalities, in the order of the files; the first is the main one.
    truth
        Cell x feature counts of each modality in all cells, before masking (CSR, float32).
    has
        Presence of each modality in each cell.
    obs
        ``batch, dataset, time, cell_type, split`` of each cell.
    names
        Feature names of each modality.
    latent
        Cell x axis: the true position of each cell (axes: ``remadom.data.mock_cells.AXES``).
    parameters
        What was asked for.
    """

    problem: str
    modalities: tuple[str, ...]
    truth: Mapping[str, sp.csr_matrix]
    has: Mapping[str, Mask]
    obs: pd.DataFrame
    names: Mapping[str, npt.NDArray[np.object_]]
    latent: Floats
    parameters: Mapping[str, str | int | float | list[str]]

    def observed(self, modality: str) -> sp.csr_matrix:
        """Counts of a modality with the rows of the cells that lack it emptied (cell x feature)."""
        truth, has = self.truth[modality], self.has[modality]
        if has.all():
            return truth
        stored = np.diff(truth.indptr)
        keep = np.repeat(has, stored)
        indptr = np.concatenate([[0], np.cumsum(stored * has)])
        return sp.csr_matrix((truth.data[keep], truth.indices[keep], indptr), shape=truth.shape)


def _checked_modalities(problem: str, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return MODALITIES
    for modality in wanted:
        if modality not in MODALITIES:
            raise InputError(f"unknown modality '{modality}': {nearest(modality, MODALITIES)}")
    modalities = tuple(m for m in MODALITIES if m in wanted)
    fewest = PROBLEMS[problem].fewest
    if len(modalities) < fewest:
        raise InputError(
            f"problem '{problem}' needs at least {fewest} modalities, got {', '.join(modalities) or 'none'}; "
            f"name more of: {', '.join(MODALITIES)}"
        )
    return modalities


def _check_at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise InputError(f"{name} is {value}; give at least {low}")


def _obs(cells: Cells, split: npt.NDArray[np.str_], studies: Codes) -> pd.DataFrame:
    """Provenance of each cell; ``time`` is its progress at the nearest of five collection times."""
    study_names = [f"study_{s + 1}" for s in range(studies.max() + 1)]
    prefix = [f"{name}_" for name in study_names] if len(study_names) > 1 else [""]
    number = np.arange(len(studies)) - np.searchsorted(studies, studies) + 1
    batch_names = [f"{prefix[s]}batch_{n}" for s, n in zip(studies, number, strict=True)]
    return pd.DataFrame(
        {
            "batch": pd.Categorical.from_codes(cells.batch, batch_names),
            "dataset": pd.Categorical.from_codes(studies[cells.batch], study_names),
            "time": np.round(4 * cells.progress) / 4,
            "cell_type": pd.Categorical.from_codes(cells.kind, TYPES),
            "split": pd.Categorical(split, categories=["train", "val", "test"]),
        },
        index=pd.Index([f"cell_{i:06d}" for i in range(len(cells))], dtype=object),
    )


def generate(
    problem: str,
    *,
    cells: int = 1200,
    genes: int = 400,
    peaks: int = 600,
    proteins: int = 30,
    modalities: Sequence[str] | None = None,
    batches: int | None = None,
    missing_rate: float | None = None,
    difficulty: float = 0.5,
    seed: int = 0,
    block: int | None = None,
) -> MockData:
    """Generate a data set of a problem type; the same arguments give the same bytes.

    Parameters
    ----------
    problem
        ``paired, unpaired, bridge, mosaic, prediction`` or ``hierarchical``.
    cells, genes, peaks, proteins
        Sizes.
    modalities
        Some of ``rna, atac, adt``; by default all (``unpaired`` and ``bridge``: rna and atac).
    batches
        Number of batches (``hierarchical``: of each of the three studies); by default 2, or as many as the
        problem type has kinds of cohort.
    missing_rate
        ``mosaic`` only: probability that a measured modality of a cell goes missing (default 0.2).
    difficulty
        From 0 (easy) to 1 (very hard).
    seed
        Seed, at least 0.
    block
        Cells counted at a time; by default so many that a block is a few MB. It does not change the result.

    Raises
    ------
    InputError
        An unknown name, or a number out of its range.
    """
    if problem not in PROBLEMS:
        raise InputError(f"unknown problem '{problem}': {nearest(problem, PROBLEMS)}")
    kind = PROBLEMS[problem]
    subset = _checked_modalities(problem, modalities)
    sizes = {"rna": genes, "atac": peaks, "adt": proteins}
    for modality in subset:
        _check_at_least(f"number of features of {modality}", sizes[modality], FEWEST_FEATURES[modality])
    _check_at_least("seed", seed, 0)
    if block is not None:
        _check_at_least("block", block, 1)
    if not 0 <= difficulty <= 1:
        raise InputError(f"difficulty is {difficulty:g}; give a number from 0 (easy) to 1 (very hard)")
    if missing_rate is not None and not kind.missing_rate:
        raise InputError(f"missing_rate is for the problem 'mosaic', not '{problem}'; leave it out")
    rate = kind.missing_rate if missing_rate is None else missing_rate
    if not 0 <= rate < 1:
        raise InputError(f"missing_rate is {rate:g}; give a number from 0 to under 1")
    per_study = kind.default(len(subset)) if batches is None else batches
    _check_at_least(f"number of batches of the problem '{problem}'", per_study, kind.at_least(len(subset)))
    layout = kind.layout(subset, per_study)
    _check_at_least(f"number of cells in {len(layout)} batches", cells, FEWEST_CELLS * len(layout))

    regime = Regime(difficulty)
    studies = np.arange(len(layout)) // per_study
    drawn = draw_cells(cells, len(layout), regime.spread, seed)
    split = draw_split(drawn, seed)
    assays = {m: ASSAYS[m](sizes[m], studies, regime, seed) for m in subset}
    return MockData(
        problem=problem,
        modalities=subset,
        truth={m: assay.measure(drawn, block) for m, assay in assays.items()},
        has=draw_masks(kind, subset, layout, drawn.batch, split == "test", rate, seed),
        obs=_obs(drawn, split, studies),
        names={m: assay.feature_names for m, assay in assays.items()},
        latent=drawn.latent,
        parameters={
            "problem": problem,
            "modalities": list(subset),
            "cells": cells,
            "batches": len(layout),
            "missing_rate": rate,
            "difficulty": difficulty,
            "seed": seed,
            "latent_axes": list(AXES),
            **{f"features_{m}": sizes[m] for m in subset},
        },
    )

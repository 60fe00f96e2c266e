"""What a user should know of a data set before training, a sentence each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import pandas as pd

from remadom.data.modality import modality_named
from remadom.data.problem import Cohort, batches_by_dataset, some, together
from remadom.data.values import Measured

UNEVEN = 5.0
"""Ratio of the median depths of two batches from which they are told apart by depth alone."""
TINY = 30
"""Cells below which a cohort can hardly be aligned: two populations of 15."""
BATCH_LIKE = re.compile(
    r"batch|sample|donor|library|lane|patient|subject|run|chip|plate|replicate", re.IGNORECASE
)
"""What columns of obs that tell batches apart are often called."""


def of_values(modalities: Mapping[str, Measured]) -> Iterator[str]:
    """What is odd about the values."""
    for name, values in modalities.items():
        title = modality_named(name).title
        if not values.counts:
            yield (
                f"{title}: the values are no counts (some are negative or not whole); name the counts with "
                f"data.keys.{name}"
            )
        if values.empty_cells:
            yield f"{title}: {values.empty_cells:,} of {values.cells:,} measured cells have no count at all"
        if values.silent:
            yield f"{title}: {values.silent:,} of {values.features:,} features are zero in every cell"
        if values.constant:
            yield f"{title}: {values.constant:,} features have the same value in every cell"
        depths = {b: depth for b, depth in values.depth_by_batch.items() if depth > 0}
        if depths and max(depths.values()) > UNEVEN * min(depths.values()):
            deep, shallow = max(depths, key=depths.__getitem__), min(depths, key=depths.__getitem__)
            yield (
                f"{title}: batches differ in depth by {depths[deep] / depths[shallow]:.0f} times (median counts of a "
                f"cell: {deep} {depths[deep]:,.0f}, {shallow} {depths[shallow]:,.0f})"
            )
        for batch, missing in values.missing.items():
            yield (
                f"{title}: {len(missing):,} features that other batches show are zero in all of {batch} "
                f"({some(missing, 3)}): either they were not measured there, which zeros cannot say, or the cells that "
                "have them are missing"
            )


def of_cohorts(cohorts: Sequence[Cohort], modalities: Sequence[str]) -> Iterator[str]:
    """What is odd about the cohorts: their sizes, and batches that go with modalities or labels."""
    tiny = [c.name for c in cohorts if c.cells < TINY]
    if tiny:
        yield f"{len(tiny)} cohorts have fewer than {TINY} cells, too few to be aligned well: {some(tiny)}"
    by_dataset = batches_by_dataset(cohorts)
    batches = set().union(*by_dataset.values())
    if len(batches) > 1:
        yield from _same_name(by_dataset)
        yield from _of_modalities(cohorts, modalities)
        yield from _of_labels(cohorts)


def of_columns(obs: pd.DataFrame, batch_key: str) -> Iterator[str]:
    """Where there is no column of batches: which it could be."""
    if batch_key in obs:
        return
    others = [str(c) for c in obs if BATCH_LIKE.search(str(c)) and 1 < obs[c].nunique() <= len(obs) // TINY]
    hint = f" (perhaps {some(others)})" if others else ""
    yield (
        f"obs has no column '{batch_key}', so all cells are one batch; if they are not, name the column with "
        f"data.batch_key{hint}"
    )


def _same_name(by_dataset: Mapping[str, set[str]]) -> Iterator[str]:
    twice = sorted(set().union(*(a & b for a, b in combinations(by_dataset.values(), 2))))
    if twice:
        yield (
            f"{len(twice)} batches have the same name in several data sets ({some(twice)}) and are read as one; if "
            "they are not, name them apart"
        )


def _of_modalities(cohorts: Sequence[Cohort], modalities: Sequence[str]) -> Iterator[str]:
    """Modalities that go with a batch: their effects cannot be told apart."""
    having = {m: {c.batch for c in cohorts if m in c.modalities} for m in modalities}
    for m, within in having.items():
        if len(within) == 1:
            yield (
                f"{together([m])} was measured in one batch alone ({some(sorted(within))}): what is special to the "
                "batch and what to the modality cannot be told apart"
            )
    for a, b in combinations(modalities, 2):
        if not having[a] & having[b] and len(having[a]) > 1 and len(having[b]) > 1:
            yield (
                f"{together([a])} and {together([b])} have no batch in common: differences between batches and between "
                "modalities cannot be told apart"
            )


def _of_labels(cohorts: Sequence[Cohort]) -> Iterator[str]:
    """Labels that go with a batch."""
    batches = {c.batch for c in cohorts}
    typed: dict[str, set[str]] = {}
    for cohort in cohorts:
        if cohort.labeled:
            typed.setdefault(cohort.batch, set()).update(cohort.labels)
    every = sorted(set().union(*typed.values())) if typed else []
    alone = [label for label in every if sum(label in types for types in typed.values()) == 1]
    if len(typed) > 1 and alone:
        yield (
            f"{len(alone)} of {len(every)} labels occur in one batch alone ({some(alone)}): where batches are mixed as "
            "wholes, these cells land among other types"
        )
    apart = [f"{a} and {b}" for a, b in combinations(sorted(typed), 2) if not typed[a] & typed[b]]
    if apart:
        yield f"{len(apart)} pairs of batches share no label ({some(apart, 3)}): nothing says how they correspond"
    unlabeled = sorted(batches - typed.keys())
    if typed and unlabeled:
        yield f"{len(unlabeled)} of {len(batches)} batches have no label ({some(unlabeled)})"

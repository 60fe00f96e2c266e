"""From the populations of two cohorts to a verdict, with the thresholds that decide.

The thresholds were set on simulations with seeds from 1000, others than those of ``benchmarks/trust_simulations.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from remadom.eval.consistency import Comparison, Population

Verdict = Literal["aligned", "partly", "not", "unknown"]
Fate = Literal["meets", "forced", "left", "private"]

KNOWN: tuple[Verdict, ...] = ("not", "partly", "aligned")
"""Verdicts on what can be known, the weakest first."""

APART = 0.3
"""Mixing below which a population lies apart: seven tenths of the other cohort's cells that should be there are
not."""
MIXED = 0.5
"""Mean mixing of the populations that both cohorts have, from which cohorts can be called aligned."""
FORCED = 0.5
"""Agreement below which a mixed population was forced: its cells are no nearer to what the other cohort says of them
than half way from the mean of all; populations that truly correspond have 0.7 and more, the next of kin 0 to 0.5."""
TWIN = 0.5
"""Agreement from which two populations that lie apart correspond: the batch effect was left."""
AGREES = 0.8
"""Mean agreement from which cohorts can be called aligned."""
KEPT = 0.9
"""Structure kept of one cohort, relative to the other, from which cohorts can be called aligned: forcing a cohort
onto another takes its structure away, and only its own. The threshold that matters most: on 127 good and 78 bad fits
(private populations forced), 0.8, 0.85, 0.9 and 0.92 call 118, 118, 115 and 113 of the good and 8, 6, 1 and 0 of the
bad aligned."""
SMALL = 0.03
"""Share of a cohort's cells that may be forced or left where cohorts are called aligned: less than half of a cluster of
average size, so that chance can make the smallest one fail and no more."""
LITTLE = 0.1
"""Share of the cells, or mixing, up to which cohorts lie apart as a whole."""
CHAIN_MIXED = 0.4
"""Mixing (:func:`~remadom.eval.mixing.mixing`) from which cohorts that a chain links can be called aligned: near
half of the 0.88 that fully mixed cohorts reach."""
OVERLAP = 0.5
"""Share of the cells of one of the cohorts at least that must meet the other where they are called aligned."""
RESOLUTION = 5.0
"""Variance between profiles over their sampling noise below which the features cannot tell populations apart: the
agreement of a population is then uncertain by half and more."""
MEETS = 0.2
"""FOSCTTM of paired cells up to which two modalities meet: their partner is among the nearest fifth."""
MEETS_PARTLY = 0.35
"""FOSCTTM up to which they meet partly: half of the way from there to chance, 0.5."""


def fate(population: Population) -> Fate:
    """What the embedding did with a population."""
    if population.mixing < APART:
        return "left" if population.twin >= TWIN else "private"
    return "forced" if population.agreement + population.error < FORCED else "meets"


def weakest(*verdicts: Verdict) -> Verdict:
    """The weakest of verdicts on what can be known; ``unknown`` where there is none."""
    known = [KNOWN.index(v) for v in verdicts if v != "unknown"]
    return KNOWN[min(known)] if known else "unknown"


def of_modalities(verdicts: Iterable[Verdict]) -> Verdict:
    """Verdict on two cohorts from those by modality: the one that all that can tell share, else ``partly``."""
    known = {v for v in verdicts if v != "unknown"}
    return known.pop() if len(known) == 1 else "partly" if known else "unknown"


def of_mixing(mixed: tuple[float, float]) -> Verdict:
    """The best that can be said of two cohorts that are mixed so in the embedding."""
    return "not" if max(mixed) < LITTLE else "partly" if max(mixed) < CHAIN_MIXED else "aligned"


def of_meeting(foscttm: float) -> Verdict:
    """Whether two modalities of the same cells meet."""
    return "aligned" if foscttm <= MEETS else "partly" if foscttm <= MEETS_PARTLY else "not"


def judge(comparison: Comparison) -> tuple[Verdict, dict[str, Any]]:
    """Verdict on two cohorts in one modality, and the evidence.

    Returns
    -------
    verdict
        ``unknown`` where the features cannot tell.
    evidence
        ``resolution``, ``mixing`` (of the populations that are not private), ``agreement`` and ``kept`` (of those
        that are mixed), ``meets``, ``forced``, ``left`` and ``private`` (shares of the cells), a value for each
        of the two cohorts, ``nan`` where there is none.
    """
    found: dict[str, list[float]] = {"resolution": list(comparison.resolution)}
    for side in comparison.sides:
        for name, value in _summary(side).items():
            found.setdefault(name, []).append(value)
    return _verdict(found), found


def _verdict(found: dict[str, list[float]]) -> Verdict:
    mixed = [meets + forced for meets, forced in zip(found["meets"], found["forced"], strict=True)]
    if max(mixed) < LITTLE or max(found["left"]) > OVERLAP:
        return "not"
    if min(found["resolution"]) < RESOLUTION:
        return "unknown"
    if max(found["forced"]) > OVERLAP or _least(found["agreement"]) < FORCED:
        return "not"
    good = (
        max(found["forced"]) <= SMALL
        and max(found["left"]) <= SMALL
        and _least(found["agreement"]) >= AGREES
        and _least(found["mixing"]) >= MIXED
        and _least(found["kept"]) >= KEPT * max(found["kept"])
        and max(found["meets"]) >= OVERLAP
    )
    return "aligned" if good else "partly"


def _least(values: Iterable[float]) -> float:
    """The least; minus infinity where one is missing."""
    return min(-math.inf if math.isnan(value) else value for value in values)


def _summary(side: Sequence[Population]) -> dict[str, float]:
    fates = np.array([fate(p) for p in side])
    share = np.array([p.share for p in side])

    def mean(values: list[float], where: np.ndarray) -> float:
        weight = share * where
        return float(weight @ np.clip(values, -1, 1) / weight.sum()) if weight.sum() > 0 else math.nan

    mixed = (fates == "meets") | (fates == "forced")
    return {
        "mixing": mean([p.mixing for p in side], fates != "private"),
        "agreement": mean([p.agreement for p in side], mixed),
        "kept": mean([p.kept for p in side], mixed),
        **{name: float(share[fates == name].sum()) for name in ("meets", "forced", "left", "private")},
    }

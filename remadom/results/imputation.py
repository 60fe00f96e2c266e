"""How well a run predicts values that it has not seen, beside what simple methods make of the same cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from remadom.config.build import Assembly
from remadom.data.modality import modality_named
from remadom.data.source import Source
from remadom.eval.baselines import baselines
from remadom.eval.imputation import binary_metrics, imputation_metrics
from remadom.eval.scales import Scale, scale_of
from remadom.results.donors import Donors, depths
from remadom.results.intervals import FEWEST, LEVEL, Widths, donated_to, intervals_of, true_values
from remadom.train.imputation import impute_cells
from remadom.utils.seed import derive

VALUES = 6_000_000
"""Most values (cells times features) of a modality that are scored."""
FEATURES = 5000
"""Most features that are scored: those that the training cells show most."""
SHOWN = 2000
"""Training cells that say which features these are."""
JUDGED = {False: ("pearson", "rmse"), True: ("auroc_cell", "auprc_cell")}
"""Scores on which a baseline can beat the model: for counts and other values, and for open peaks."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """Held-out values of one modality and what was predicted of them.

    Attributes
    ----------
    cells, features
        Positions of the cells and of the features that were scored.
    truth, expected
        Values, cell x feature; NaN where nothing was measured.
    scale
        On which they are compared.
    intervals
        Measured values, expected values and both ends of their 90 % interval, one value each, of some of the cells.
    coverages
        Measured share by level.
    widths
        By which the 90 % intervals were widened on the scale; ``None`` without calibration cells.
    donors
        Training cells that give their values beside the decoder.
    scores
        The section of ``metrics.final.json``.
    """

    cells: np.ndarray
    features: np.ndarray
    truth: np.ndarray
    expected: np.ndarray
    scale: Scale
    intervals: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    coverages: Mapping[float, float]
    widths: Widths | None
    donors: Donors | None
    scores: dict[str, Any]


def predictions(assembly: Assembly) -> dict[str, Predicted]:
    """Every decoded modality that is known for cells that can be predicted without it.

    Scored are the cells that were held out; without any, the validation and test cells, from their other modalities.
    """
    found = {}
    for modality in assembly.source.modalities:
        if modality in assembly.model.decoders:
            cells, checked, words = asked(assembly, modality)
            if len(cells):
                found[modality] = predicted(assembly, modality, cells, checked, words)
    return found


def asked(assembly: Assembly, modality: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Cells to score, cells to calibrate on (neither was trained on with this modality), and the first in words."""
    source = assembly.source
    others = np.zeros(source.n_cells, dtype=bool)
    for other in source.modalities:
        others |= source.has[other] & (other != modality)
    rng = np.random.default_rng(derive(assembly.config.optim.seed, f"imputation.{modality}"))
    n_features = min(FEATURES, len(source.features[modality]))
    most = min(assembly.config.evaluation.max_cells, VALUES // n_features)
    unseen = np.concatenate([assembly.split.val, assembly.split.test])
    unseen = rng.permutation(unseen[(source.has[modality] & others)[unseen]])
    hidden = assembly.hidden.get(modality)
    if hidden is not None and (hidden.cells & others).any():
        cells = rng.permutation(np.flatnonzero(hidden.cells & others))
        return np.sort(cells[:most]), np.sort(unseen[:most]), f"cells {hidden.words}"
    title = modality_named(modality).title
    return np.sort(unseen[:most]), np.zeros(0, dtype=int), f"validation and test cells, without their {title}"


def predicted(
    assembly: Assembly, modality: str, cells: np.ndarray, checked: np.ndarray, words: str
) -> Predicted:
    """Predict a modality of some cells from their others, and score it."""
    hidden = without(assembly.source, modality, np.concatenate([cells, checked]))
    decoder = assembly.model.decoder(modality)
    binary, scale = decoder.support == "events", scale_of(decoder.support)
    rng = np.random.default_rng(derive(assembly.config.optim.seed, "shown"))
    train = assembly.split.train[hidden.has[modality][assembly.split.train]]
    some = np.sort(rng.permutation(train)[:SHOWN])
    shown = np.asarray(abs(hidden.rows(modality, some)).sum(axis=0)).ravel()
    features = np.sort(np.argsort(-shown, kind="stable")[:FEATURES])
    truth = true_values(assembly, modality, cells)[:, features]
    donors = Donors.of(assembly, modality)
    totals = None
    if donors is not None:
        loader = assembly.loader(cells, hidden)
        totals = depths(donors, assembly.model, loader, modality, hidden.n_cells)
    decoded = expected_of(assembly, hidden, modality, cells, totals)
    donors, expected = _with_donors(assembly, donors, hidden, modality, cells, checked, decoded, totals)
    decoded, expected = decoded[:, features], expected[:, features]
    ends = intervals_of(assembly, hidden, modality, cells, checked, donors)
    guesses = baselines(
        hidden,
        modality,
        cells,
        assembly.split.train,
        features=features,
        scale=scale,
        seed=assembly.config.optim.seed,
    )
    others = {name: _scores(guess, truth, scale, binary=binary) for name, guess in guesses.items()}
    scores = {
        "n_cells": len(cells),
        "n_features": len(features),
        "from": [m for m in hidden.modalities if m != modality and hidden.has[m][cells].any()],
        "held_out": words,
        **_scores(expected, truth, scale, binary=binary),
        "coverage_90": ends.coverages[LEVEL],
        "interval_width": _mean_width(scale.to(ends.lower), scale.to(ends.upper)),
        "scale": scale.words,
        "n_calibrating": ends.n_calibrating,
        "shift_unknown": ends.shift_unknown,
        "donors_weight": None if donors is None else donors.weight,
        "decoder": _scores(decoded, truth, scale, binary=binary),
        "baselines": others,
    }
    scores["beaten_by"] = _winners(scores, others, JUDGED[binary])
    return Predicted(
        cells=cells,
        features=features,
        truth=truth,
        expected=expected,
        scale=scale,
        intervals=(ends.truth, ends.expected, ends.lower, ends.upper),
        coverages=ends.coverages,
        widths=ends.widths,
        donors=donors,
        scores=scores,
    )


def without(source: Source, modality: str, cells: np.ndarray) -> Source:
    """The source in which these cells lack a modality."""
    mask = np.zeros(source.n_cells, dtype=bool)
    mask[cells] = True
    return source.hide(modality, mask)


def alone(source: Source, modality: str, cells: np.ndarray) -> Source:
    """The source in which these cells have at most one modality."""
    for other in source.modalities:
        source = source if other == modality else without(source, other, cells)
    return source


def expected_of(
    assembly: Assembly, source: Source, modality: str, cells: np.ndarray, totals: np.ndarray | None = None
) -> np.ndarray:
    """Expected values of a modality, cell x feature, from what the source has of these cells."""
    blocks = impute_cells(assembly.model, assembly.loader(cells, source), modality, totals=totals)
    return np.concatenate([block.expected for block in blocks])


def _with_donors(
    assembly: Assembly,
    donors: Donors | None,
    source: Source,
    modality: str,
    cells: np.ndarray,
    checked: np.ndarray,
    decoded: np.ndarray,
    totals: np.ndarray | None,
) -> tuple[Donors | None, np.ndarray]:
    """Donors with the weight that the calibration cells give them, and what is expected with them.

    Without enough of these, the cells of each half are weighed by those of the other.
    """
    if donors is None:
        return None, decoded
    given = donated_to(assembly, donors, source, modality, cells, totals)
    if len(checked) >= FEWEST:
        told = expected_of(assembly, source, modality, checked)
        theirs = donated_to(assembly, donors, source, modality, checked)
        donors = donors.weighed(told, theirs, true_values(assembly, modality, checked))
        return donors, donors.mixed(decoded, given)
    if len(cells) < 2 * FEWEST:
        return donors, donors.mixed(decoded, given)
    truth, expected = true_values(assembly, modality, cells), np.empty_like(decoded)
    for mine, others in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        weighed = donors.weighed(decoded[others], given[others], truth[others])
        expected[mine] = weighed.mixed(decoded[mine], given[mine])
    return donors.weighed(decoded, given, truth), expected


def _scores(expected: np.ndarray, truth: np.ndarray, scale: Scale, *, binary: bool) -> dict[str, float]:
    return binary_metrics(expected, truth) if binary else imputation_metrics(expected, truth, scale)


def _mean_width(lower: np.ndarray, upper: np.ndarray) -> float:
    """Mean width of the intervals that have one: of too few calibration cells they have no end."""
    widths = upper - lower
    return float(widths[np.isfinite(widths)].mean())


def _winners(
    ours: Mapping[str, Any], baselines: Mapping[str, Mapping[str, float]], judged: tuple[str, ...]
) -> list[str]:
    """Baselines that are better on any of the scores that count."""

    def better(theirs: Mapping[str, float]) -> bool:
        return any(
            theirs[name] < ours[name] if name == "rmse" else theirs[name] > ours[name]
            for name in judged
            if name in theirs and name in ours
        )

    return [name for name, theirs in baselines.items() if better(theirs)]

"""Intervals of imputed values, calibrated on cells that were not trained on: for batches known and unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from remadom.config.build import Assembly
from remadom.core.decoders import Decoder
from remadom.data.source import Source
from remadom.eval.intervals import SHIFT, calibrated_widths, coverage, shifted, widened
from remadom.eval.scales import scale_of
from remadom.results.donors import Donors, at_depth, donated
from remadom.train.imputation import Ends, impute_cells
from remadom.utils.seed import derive

LEVEL = 0.9
LEVELS = (0.5, 0.6, 0.7, 0.8, LEVEL, 0.95)
DRAWN = 500_000
"""Most values for which intervals are made: each takes as long as sixty predictions."""
FEWEST = 20
"""Fewest cells on which intervals are calibrated."""
ENOUGH = 4
"""Batches from which their own spread tells how far another one may lie from them."""
ELSEWHERE = "/elsewhere"
"""What the name of a modality is followed by where widths are those of batches without it."""


@dataclass(frozen=True, eq=False)
class Widths:
    """By how much intervals are widened on the scale, one number a feature.

    Attributes
    ----------
    here
        In the batches in which the modality was measured.
    elsewhere
        In the others, whose own shift nothing tells; ``None`` where the decoder knows no batches.
    """

    here: np.ndarray
    elsewhere: np.ndarray | None = None

    def of(self, measured: np.ndarray) -> np.ndarray:
        """Cell x feature, for cells of batches in which the modality was measured, and of others."""
        elsewhere = self.here if self.elsewhere is None else self.elsewhere
        return np.where(measured[:, None], self.here, elsewhere)

    def arrays(self, modality: str) -> dict[str, np.ndarray]:
        """Arrays of ``calibration.npz``."""
        rest = {} if self.elsewhere is None else {modality + ELSEWHERE: self.elsewhere}
        return {modality: self.here, **rest}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], modality: str) -> Widths | None:
        """From the arrays that :meth:`arrays` gave; ``None`` where the modality has none."""
        if modality not in arrays:
            return None
        return cls(arrays[modality], arrays.get(modality + ELSEWHERE))


class Intervals(NamedTuple):
    """Values of some cells with their 90 % intervals, and what intervals of every level held."""

    truth: np.ndarray
    expected: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    coverages: dict[float, float]
    widths: Widths | None
    n_calibrating: int
    shift_unknown: bool
    """Whether cells are of batches in which the modality was never measured, and few batches tell what these shift."""


class _Drawn(NamedTuple):
    """Measured and expected values of cells, and the model's own intervals by level, at the true depth."""

    truth: np.ndarray
    expected: np.ndarray
    ends: dict[float, Ends]


def intervals_of(
    assembly: Assembly,
    source: Source,
    modality: str,
    cells: np.ndarray,
    checked: np.ndarray,
    donors: Donors | None,
) -> Intervals:
    """Intervals of some of the cells, calibrated on some of the checked ones.

    Without enough of these, those of every second cell are calibrated on the others. Cells of a batch in which the
    modality was never measured get the widths of calibration cells that were predicted as if theirs were such a batch.
    """
    most = max(2 * FEWEST, DRAWN // len(source.features[modality]))
    rng = np.random.default_rng(derive(assembly.config.optim.seed, "intervals"))
    cells, checked = (np.sort(rng.permutation(some)[:most]) for some in (cells, checked))
    if len(checked) < FEWEST:
        checked, cells = (cells[::2], cells[1::2]) if len(cells) >= 2 * FEWEST else (cells[:0], cells)
    if not len(checked):
        # a shift takes zeros out of the intervals of counts, and only calibration puts them back
        donors = None
    decoder = assembly.model.decoder(modality)
    scale = scale_of(decoder.support)
    drawn = _draw(assembly, source, modality, cells, donors)
    calibrating = _draw(assembly, source, modality, checked, donors) if len(checked) else None
    codes = assembly.groups["batch"][0]
    measured, theirs = measured_in(decoder, codes[cells]), measured_in(decoder, codes[checked])
    few = decoder.batch.width > 0 and int(decoder.batch.seen.sum()) < ENOUGH and bool(theirs.all())
    apart = [_as_of_other_batches(assembly, source, modality, checked, donors)]
    if calibrating is not None and few and decoder.support == "counts":
        apart.append(_as_if_shifted(calibrating, derive(assembly.config.optim.seed, "shifts")))
    ends, coverages, widths = dict(drawn.ends), {}, None
    for level in LEVELS:
        if calibrating is not None:
            here, *others = (
                calibrated_widths(*found.ends[level], found.truth, level=level, scale=scale)
                for found in (calibrating, *apart)
                if found is not None
            )
            wider = Widths(here, np.max(others, axis=0) if others else None)
            ends[level] = widened(*ends[level], wider.of(measured), scale)
            widths = wider if level == LEVEL else widths
        coverages[level] = coverage(*ends[level], drawn.truth)
    unknown = calibrating is not None and few and not measured.all()
    return Intervals(drawn.truth, drawn.expected, *ends[LEVEL], coverages, widths, len(checked), unknown)


def measured_in(decoder: Decoder, codes: np.ndarray) -> np.ndarray:
    """Which of these batches (by code) the decoder has learned of; all where it is conditioned on none."""
    if not decoder.batch.width:
        return np.ones(len(codes), dtype=bool)
    known: np.ndarray = (
        decoder.batch.known(torch.as_tensor(codes, device=decoder.batch.seen.device)).cpu().numpy()
    )
    return known


def _as_of_other_batches(
    assembly: Assembly, source: Source, modality: str, cells: np.ndarray, donors: Donors | None
) -> _Drawn | None:
    """The cells of each batch as if the modality had never been measured in it; ``None`` with too few to tell.

    The decoder takes the average of the other batches, and donors are those of the others. (The weights of the model
    have seen the batch, so this is a lower bound of what a batch shifts.)
    """
    decoder, codes = assembly.model.decoder(modality), assembly.groups["batch"][0]
    cells = cells[measured_in(decoder, codes[cells])]
    batches = np.unique(codes[cells])
    if not decoder.batch.width or int(decoder.batch.seen.sum()) < 2 or len(cells) < FEWEST:
        return None
    found = []
    for code in batches:
        with decoder.batch.without(int(code)):
            others = None if donors is None else donors.without_batch(int(code))
            found.append(_draw(assembly, source, modality, cells[codes[cells] == code], others))
    ends = {}
    for level in LEVELS:
        lower, upper = zip(*(part.ends[level] for part in found), strict=True)
        ends[level] = np.concatenate(lower), np.concatenate(upper)
    truth, expected = (np.concatenate(parts) for parts in zip(*(part[:2] for part in found), strict=True))
    return _Drawn(truth, expected, ends)


def _as_if_shifted(calibrating: _Drawn, seed: int) -> _Drawn:
    """Counts of calibration cells as if each were of a batch of its own: times log-normal factors."""
    shifts = np.random.default_rng(seed).normal(0.0, SHIFT, calibrating.truth.shape)
    return calibrating._replace(truth=calibrating.truth * np.exp(shifts))


def _draw(
    assembly: Assembly, source: Source, modality: str, cells: np.ndarray, donors: Donors | None
) -> _Drawn:
    """Measured values, expected values and the model's own intervals by level, at the true depth."""
    truth = true_values(assembly, modality, cells)
    totals = np.ones(source.n_cells, dtype=np.float32)
    totals[cells] = np.maximum(np.nansum(truth, axis=1), 1)
    blocks = list(
        impute_cells(
            assembly.model,
            assembly.loader(cells, source),
            modality,
            totals=totals,
            levels=LEVELS,
            seed=derive(assembly.config.optim.seed, "draws"),
        )
    )
    ends = {
        level: (
            np.concatenate([block.intervals[level][0] for block in blocks]),
            np.concatenate([block.intervals[level][1] for block in blocks]),
        )
        for level in LEVELS
    }
    expected = np.concatenate([block.expected for block in blocks])
    decoder = assembly.model.decoder(modality)
    if decoder.support == "counts" and decoder.scores_zeros and not getattr(decoder, "library", False):
        # it does not scale with the depth: we do
        factor = totals[cells, None] / np.maximum(expected.sum(1, keepdims=True), np.finfo(np.float32).tiny)
        expected = expected * factor
        ends = {level: (low * factor, up * factor) for level, (low, up) in ends.items()}
    if donors is not None and decoder.support != "events":
        given = at_depth(donated_to(assembly, donors, source, modality, cells, totals), truth, donors.scale)
        mixed = donors.mixed(expected, given)
        ends = {level: shifted(pair, expected, mixed, donors.scale) for level, pair in ends.items()}
        expected = mixed
    return _Drawn(truth, expected, ends)


def true_values(assembly: Assembly, modality: str, cells: np.ndarray) -> np.ndarray:
    """Measured values of a modality, cell x feature; NaN for zeros where they say that nothing was measured."""
    truth: np.ndarray = assembly.measured.rows(modality, cells).toarray()
    if not assembly.model.decoder(modality).scores_zeros:
        truth[truth == 0] = np.nan
    return truth


def donated_to(
    assembly: Assembly,
    donors: Donors,
    source: Source,
    modality: str,
    cells: np.ndarray,
    totals: np.ndarray | None = None,
) -> np.ndarray:
    """What donors give to cells, cell x feature; see :func:`~remadom.results.donors.donated`."""
    return np.concatenate(
        list(donated(donors, assembly.model, assembly.loader(cells, source), modality, totals))
    )

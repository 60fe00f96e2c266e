"""Where cells lie by what was measured of them, and by what is expected of them where nothing was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from remadom.config.trained import Trained
from remadom.core.coordinates import BLOCK, TOTAL, comparable
from remadom.data.modality import modality_named
from remadom.data.source import Source
from remadom.eval.baselines import by_sources
from remadom.results.donors import donated
from remadom.results.kept_donors import load_donors
from remadom.train.imputation import impute_cells
from remadom.types import Support
from remadom.utils.seed import derive

COMPONENTS = 20
"""Most principal components of a modality."""
SAMPLE = 4000
"""Most measured cells from which they are learned."""
FEATURES = 5000
"""Most features of a modality that are read: those that vary most."""
FLAT = 1e-8
"""Variance of the first component below which all measured cells are the same."""
RIDGE = 10.0
"""Penalty of the regression between modalities, in cells at a component's unit."""
PAIRED = 50
"""Cells with all that a regression reads and predicts, below which there is none."""


@dataclass(frozen=True, eq=False)
class Profiles:
    """Principal components of the modalities of cells, cell x component, each modality's beside the others'.

    Attributes
    ----------
    expected
        Of what was measured of a cell; where nothing was, of what is expected of it, as by ``remadom impute``.
    regressed
        The same where it was measured; where it was not, what ridge regression makes of the components of what was.
        A line through what was measured: types lie on the same sides of a linear classifier whether measured or not.
    """

    expected: np.ndarray
    regressed: np.ndarray


def profiles_of(trained: Trained, source: Source) -> Profiles:
    """Profiles of all modalities that tell cells apart.

    Profiles are made comparable as for :class:`~remadom.core.coordinates.DecodedCoordinates`, axes are those of
    measured cells, and each modality is divided by the deviation of its first component. Modalities that are read as
    centered log ratios (proteins) are normalized to the median total: a panel may count so few that a larger one would
    make differences of nothing out of none and one. A modality whose zeros say "not measured" has no profiles, and
    open peaks have none: of one cell they are noise.

    Parameters
    ----------
    trained
        The model, and what was kept with it.
    source
        Cells, prepared for it.
    """
    parts = {
        modality: found
        for modality in trained.model.decoders
        if modality in source.modalities
        and _tells_cells_apart(trained, modality)
        and (found := _of_modality(trained, source, modality)) is not None
    }
    nothing = np.empty((source.n_cells, 0), dtype=np.float32)
    regressed = _regressed(source, parts)
    return Profiles(np.hstack([nothing, *parts.values()]), np.hstack([nothing, *regressed.values()]))


def _tells_cells_apart(trained: Trained, modality: str) -> bool:
    """Whether what was measured of one cell can be compared with what was measured, or is expected, of others."""
    decoder = trained.model.decoder(modality)
    return decoder.scores_zeros and decoder.support != "events"


def _of_modality(trained: Trained, source: Source, modality: str) -> np.ndarray | None:
    """Components of one modality; ``None`` where measured cells do not differ."""
    support, measured = trained.model.decoder(modality).support, np.flatnonzero(source.has[modality])
    seed = derive(trained.config.optim.seed, f"profiles.{modality}")
    drawn = np.sort(np.random.default_rng(seed).permutation(measured)[:SAMPLE])
    values = source.rows(modality, drawn).toarray()
    total = _total(values) if modality_named(modality).encoder_input == "clr" else TOTAL
    sample = _profiles(values, support, total)
    if len(sample) < 2:
        return None
    kept = np.sort(np.argsort(-sample.var(0), kind="stable")[:FEATURES])
    sample = sample[:, kept]
    found = PCA(min(COMPONENTS, *sample.shape), random_state=seed % 2**32).fit(sample)
    if found.explained_variance_[0] < FLAT:
        return None
    axes = found.components_.T / np.sqrt(found.explained_variance_[0])
    out = np.empty((source.n_cells, axes.shape[1]), dtype=np.float32)
    for cells, block in _blocks(trained, source, modality, measured):
        out[cells] = (_profiles(block, support, total)[:, kept] - found.mean_) @ axes
    return out


def _total(values: np.ndarray) -> float:
    """Median total of the cells that have any counts."""
    totals = values.sum(1)
    return float(np.median(totals[totals > 0])) if (totals > 0).any() else TOTAL


def _profiles(values: np.ndarray, support: Support, total: float) -> np.ndarray:
    return comparable(torch.from_numpy(np.asarray(values, dtype=np.float32)), support, total).numpy()


def _regressed(source: Source, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Components of each modality, by ridge regression where a cell lacks it and enough others have what it reads."""
    found = {}
    for modality, own in parts.items():
        out, has = own.copy(), source.has[modality]
        others, lacking = [m for m in parts if m != modality], np.flatnonzero(~has)
        for read, at in by_sources(source, others, lacking):
            paired = np.all([source.has[m] for m in (modality, *read)], axis=0)
            if paired.sum() >= PAIRED:
                x = np.hstack([parts[m] for m in read])
                out[lacking[at]] = Ridge(RIDGE).fit(x[paired], own[paired]).predict(x[lacking[at]])
        found[modality] = out
    return found


def _blocks(
    trained: Trained, source: Source, modality: str, measured: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cells and their values, measured or expected, a block at a time."""
    for start in range(0, len(measured), BLOCK):
        cells = measured[start : start + BLOCK]
        yield cells, source.rows(modality, cells).toarray()
    lacking = np.flatnonzero(~source.has[modality])
    if not len(lacking):
        return
    donors, model = load_donors(trained, modality), trained.model
    given: Iterator[np.ndarray | None] = repeat(None)
    if donors is not None:
        given = donated(donors, model, trained.loader(source, lacking), modality)
    done = 0
    for block, found in zip(
        impute_cells(model, trained.loader(source, lacking), modality), given, strict=False
    ):
        cells = lacking[done : done + len(block.expected)]
        done += len(cells)
        expected = block.expected
        yield cells, expected if donors is None or found is None else donors.mixed(expected, found)

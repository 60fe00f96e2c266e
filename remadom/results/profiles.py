"""Where cells lie by what was measured of them, and by what is expected of them where nothing was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from remadom.adapters.profile_axes import measured_profiles, profile_axes, regressed
from remadom.config.trained import Trained
from remadom.data.source import Source
from remadom.results.donors import donated
from remadom.results.kept_donors import load_donors
from remadom.train.imputation import impute_cells


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
    """Profiles of all modalities that have axes (see :func:`~remadom.adapters.profile_axes.profile_axes`).

    Parameters
    ----------
    trained
        The model, and what was kept with it.
    source
        Cells, prepared for it.
    """
    parts = {}
    for modality, axes in profile_axes(trained.model, source, trained.config.optim.seed).items():
        parts[modality] = out = measured_profiles(axes, source, modality)
        lacking, done = np.flatnonzero(~source.has[modality]), 0
        for expected in _expected(trained, source, modality, lacking):
            out[lacking[done : done + len(expected)]] = axes.of(expected)
            done += len(expected)
    nothing = np.empty((source.n_cells, 0), dtype=np.float32)
    others = regressed(source, parts)
    return Profiles(np.hstack([nothing, *parts.values()]), np.hstack([nothing, *others.values()]))


def _expected(trained: Trained, source: Source, modality: str, lacking: np.ndarray) -> Iterator[np.ndarray]:
    """What is expected of cells that lack a modality, cell x feature, a block at a time."""
    if not len(lacking):
        return
    donors, model = load_donors(trained, modality), trained.model
    given: Iterator[np.ndarray | None] = repeat(None)
    if donors is not None:
        given = donated(donors, model, trained.loader(source, lacking), modality)
    for block, found in zip(
        impute_cells(model, trained.loader(source, lacking), modality), given, strict=False
    ):
        expected = block.expected
        yield expected if donors is None or found is None else donors.mixed(expected, found)

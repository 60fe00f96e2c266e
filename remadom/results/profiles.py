"""Where cells lie by what was measured of them, and by what is expected of them where nothing was."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np
import torch
from sklearn.decomposition import PCA

from remadom.config.trained import Trained
from remadom.core.coordinates import BLOCK, comparable
from remadom.data.source import Source
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


def profile_components(trained: Trained, source: Source) -> np.ndarray:
    """Principal components of the modalities, cell x component, each modality's beside the others'.

    A cell's profile of a modality is what was measured of it; where nothing was, what is expected of it, as by
    ``remadom impute``. Profiles are made comparable as for :class:`~remadom.core.coordinates.DecodedCoordinates`, axes
    are those of measured cells, and each modality is divided by the deviation of its first component. A modality whose
    zeros say "not measured" has no profiles, and open peaks have none: of one cell they are noise.

    Parameters
    ----------
    trained
        The model, and what was kept with it.
    source
        Cells, prepared for it.
    """
    parts = [
        found
        for modality in trained.model.decoders
        if modality in source.modalities
        and _tells_cells_apart(trained, modality)
        and (found := _of_modality(trained, source, modality)) is not None
    ]
    return np.concatenate(parts, axis=1) if parts else np.empty((source.n_cells, 0), dtype=np.float32)


def _tells_cells_apart(trained: Trained, modality: str) -> bool:
    """Whether what was measured of one cell can be compared with what was measured, or is expected, of others."""
    decoder = trained.model.decoder(modality)
    return decoder.scores_zeros and decoder.support != "events"


def _of_modality(trained: Trained, source: Source, modality: str) -> np.ndarray | None:
    """Components of one modality; ``None`` where measured cells do not differ."""
    support, measured = trained.model.decoder(modality).support, np.flatnonzero(source.has[modality])
    seed = derive(trained.config.optim.seed, f"profiles.{modality}")
    drawn = np.sort(np.random.default_rng(seed).permutation(measured)[:SAMPLE])
    sample = _profiles(source.rows(modality, drawn).toarray(), support)
    if len(sample) < 2:
        return None
    kept = np.sort(np.argsort(-sample.var(0), kind="stable")[:FEATURES])
    sample = sample[:, kept]
    found = PCA(min(COMPONENTS, *sample.shape), random_state=seed % 2**32).fit(sample)
    if found.explained_variance_[0] < FLAT:
        return None
    axes = found.components_.T / np.sqrt(found.explained_variance_[0])
    out = np.empty((source.n_cells, axes.shape[1]), dtype=np.float32)
    for cells, values in _blocks(trained, source, modality, measured):
        out[cells] = (_profiles(values, support)[:, kept] - found.mean_) @ axes
    return out


def _profiles(values: np.ndarray, support: Support) -> np.ndarray:
    return comparable(torch.from_numpy(np.asarray(values, dtype=np.float32)), support).numpy()


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

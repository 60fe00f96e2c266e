"""Where new cells lie among those of a reference: their labels, and how far they are from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from remadom.adapters.cells import NOTHING, ReferenceCells
from remadom.adapters.labels import Labeler, Transfer
from remadom.adapters.mixtures import Mixture
from remadom.adapters.profile_axes import beside, unit_of
from remadom.adapters.settings import AdapterSettings
from remadom.core.vae import MosaicVAE

EVERY = "reference"
"""Label that all reference cells share, for the distance of a cell to any of them."""


@dataclass(frozen=True, eq=False)
class Placed:
    """New cells among those of a reference.

    Attributes
    ----------
    labels
        By level.
    familiar
        Chance that a reference cell lies as far from the others as this cell does.
    cluster
        Soft cluster of the reference that each cell is nearest to.
    unknown
        Chance below which a cell is unlike the reference.
    """

    labels: Mapping[str, Transfer]
    familiar: np.ndarray
    cluster: np.ndarray
    unknown: float

    def quality(self) -> dict[str, Any]:
        """How well the cells fit, over all, by label and by soft cluster: cells, and the share unlike the reference."""
        far = self.familiar < self.unknown
        share = float(far.mean()) if len(far) else 0.0
        found: dict[str, Any] = {
            "unlike_the_reference": share,
            "expected_of_its_own_cells": self.unknown,
            "words": _words(share, self.unknown),
        }
        for level, transfer in self.labels.items():
            found[f"by_{level}"] = _by_group(transfer.nearest, far)
        found["by_cluster"] = _by_group(self.cluster, far)
        return found


def place(
    cells: ReferenceCells,
    model: MosaicVAE,
    has: Mapping[str, np.ndarray],
    z: np.ndarray,
    whole: np.ndarray,
    profiles: Mapping[str, np.ndarray],
    mixture: Mixture,
    settings: AdapterSettings,
    seed: int,
) -> Placed:
    """Label new cells, and compare their distances with those of the reference's own cells.

    Cells are compared with the reference as seen by the modalities that they have (see
    :meth:`~remadom.adapters.cells.ReferenceCells.seen_by`). Those that vote on a label are the nearest in the latent
    space and the profiles of these modalities, side by side.

    Parameters
    ----------
    cells
        Of the reference.
    model
        That embedded both.
    has
        Which of the new cells have each of the reference's modalities.
    z
        New cells, cell x latent.
    whole
        The same cells where their distance is to be judged.
    profiles
        Their components along the reference's axes, by modality, cell x component.
    mixture
        Soft clusters of the reference.
    settings
        Neighbors, and the share that is called unknown.
    seed
        Of the cells on which votes are calibrated.
    """
    levels = {level: values for level, values in cells.labels.items() if (values != NOTHING).sum() > 1}
    levels[EVERY] = np.full(len(cells), EVERY, dtype=object)
    names = list(has)
    pattern = np.zeros(len(z), dtype=np.int64)
    for bit, name in enumerate(names):
        pattern += has[name].astype(np.int64) << bit
    parts: dict[str, list[tuple[np.ndarray, Transfer]]] = {level: [] for level in levels}
    for code in np.unique(pattern):
        alike = np.flatnonzero(pattern == code)
        own = [name for bit, name in enumerate(names) if code >> bit & 1]
        seen = cells.seen_by(model, own or names)
        compared = [name for name in own if name in profiles]
        near, others_near = None, None
        if compared:
            unit = unit_of(seen)
            near = beside(seen, unit, *(cells.profiles[name] for name in compared))
            others_near = beside(z[alike], unit, *(profiles[name][alike] for name in compared))
        for level, values in levels.items():
            votes = level != EVERY  # all cells have that label: only distances are asked for
            labeler = Labeler.fit(
                seen,
                values,
                mixture,
                near=near if votes else None,
                neighbors=settings.neighbors,
                unknown=settings.unknown,
                seed=seed,
            )
            there = others_near if votes else None
            parts[level].append((alike, labeler.transfer(z[alike], whole[alike], there)))
    labels = {level: Transfer.joined(found, len(z)) for level, found in parts.items()}
    familiar = labels.pop(EVERY).familiar
    cluster = mixture.posterior(z)[0].argmax(1) if len(z) else np.empty(0, int)
    return Placed(labels, familiar, cluster, settings.unknown)


def _by_group(groups: np.ndarray, far: np.ndarray) -> dict[str, dict[str, float]]:
    return {
        str(name): {"cells": int((groups == name).sum()), "unlike": float(far[groups == name].mean())}
        for name in np.unique(groups)
    }


def _words(share: float, expected: float) -> str:
    """A verdict: what a user may do with the mapping."""
    said = (
        f"{share:.0%} of the cells lie farther from the reference than {1 - expected:.0%} of its own cells do"
    )
    if share <= 2 * expected:
        return f"the cells fit the reference: {said}"
    if share <= 0.5:
        return (
            f"some cells are unlike the reference: {said}; they are called unknown, look at them before use"
        )
    return f"the cells do not fit the reference: {said}; do not use the labels"

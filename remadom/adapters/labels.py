"""Labels of a reference given to new cells, each with a confidence, or none where a cell is like no reference cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from sklearn.isotonic import IsotonicRegression

from remadom.adapters.cells import NOTHING
from remadom.adapters.familiar import Familiarity
from remadom.adapters.mixtures import Mixture
from remadom.adapters.votes import nearest_others, shares
from remadom.errors import InputError
from remadom.solvers.ann import AnnIndex

UNKNOWN = "unknown"
"""Label of a cell that is like no cell of the reference."""

CALIBRATION_CELLS = 20_000
"""Most reference cells on which votes are compared with labels."""


@dataclass(frozen=True, eq=False)
class Transfer:
    """Labels of one level.

    Attributes
    ----------
    label
        Of most of the nearest reference cells, or ``UNKNOWN``.
    nearest
        The same for every cell, whether or not it is like the reference.
    confidence
        Probability that ``nearest`` is right where a cell is of a type that the reference has: the share of the votes,
        calibrated on the reference's own cells, each labeled by the others.
    mixture, mixture_confidence
        Label and probability by the soft clusters that a cell is in: a second opinion.
    familiar
        Chance that a reference cell, of this label or of any, lies as far from the others as this cell does; small for
        a cell of a type that the reference does not have.
    """

    label: np.ndarray
    nearest: np.ndarray
    confidence: np.ndarray
    mixture: np.ndarray
    mixture_confidence: np.ndarray
    familiar: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[tuple[np.ndarray, Transfer]], n_cells: int) -> Transfer:
        """One transfer of several, each of the cells at the positions beside it."""
        whole = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for _, part in parts]
            whole[field.name] = np.empty(n_cells, dtype=values[0].dtype if values else float)
            for (cells, _), value in zip(parts, values, strict=True):
                whole[field.name][cells] = value
        return cls(**whole)


@dataclass(frozen=True, eq=False)
class Labeler:
    """Gives the labels of a reference to other cells of the same latent space.

    Attributes
    ----------
    names
        The labels.
    codes
        Label of each reference cell, as a position in ``names``.
    index
        Of the reference cells, for searching those that are near in the latent space.
    voters
        The same where those that vote are sought.
    k
        Reference cells that vote.
    unknown
        Chance below which a cell is called ``UNKNOWN``: the share of a reference's own cells that would be, too.
    calibration
        From the share of the votes to the probability of being right.
    familiarity
        How far the cells of each label lie from their ``k`` nearest others.
    mixture, by_cluster
        Soft clusters, and the share of each label in each.
    """

    names: np.ndarray
    codes: np.ndarray
    index: AnnIndex
    voters: AnnIndex
    k: int
    unknown: float
    calibration: IsotonicRegression
    familiarity: Familiarity
    mixture: Mixture
    by_cluster: np.ndarray

    @classmethod
    def fit(
        cls,
        z: np.ndarray,
        labels: np.ndarray,
        mixture: Mixture,
        *,
        near: np.ndarray | None = None,
        neighbors: int = 30,
        unknown: float = 0.05,
        seed: int = 0,
    ) -> Labeler:
        """Learn the labels of a reference.

        Parameters
        ----------
        z
            Cell x latent.
        labels
            One a cell; ``NOTHING`` where there is none.
        mixture
            Soft clusters of the reference.
        near
            Where the nearest vote, cell x dimension; by default ``z``, in which distances are judged.
        neighbors
            Cells that vote.
        unknown
            See the attribute.
        seed
            Of the cells on which the votes are calibrated.

        Raises
        ------
        InputError
            Fewer than two cells have a label.
        """
        labeled = labels != NOTHING
        if labeled.sum() < 2:
            raise InputError(
                f"{int(labeled.sum())} cells of the reference have a label, expected two or more; choose another column"
            )
        share, _ = mixture.posterior(z[labeled])
        near = None if near is None else np.ascontiguousarray(near[labeled], dtype=np.float32)
        z = np.ascontiguousarray(z[labeled], dtype=np.float32)
        names, codes = np.unique(labels[labeled], return_inverse=True)
        k = min(neighbors, len(z) - 1)
        searched = AnnIndex(z)
        drawn = np.sort(np.random.default_rng(seed).permutation(len(z))[:CALIBRATION_CELLS])
        distance, index = nearest_others(searched, z, drawn, k)
        voters = searched
        if near is not None:
            voters = AnnIndex(near)
            _, index = nearest_others(voters, near, drawn, k)
        votes = shares(codes[index], len(names))
        right = votes.argmax(1) == codes[drawn]
        calibration = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(votes.max(1), right)
        by_cluster = np.stack([share[codes == i].sum(0) for i in range(len(names))], axis=1)
        by_cluster = (by_cluster + 1e-6) / (by_cluster + 1e-6).sum(1, keepdims=True)
        familiarity = Familiarity.of(distance.mean(1), codes[drawn], len(names))
        return cls(names, codes, searched, voters, k, unknown, calibration, familiarity, mixture, by_cluster)

    def transfer(
        self, z: np.ndarray, whole: np.ndarray | None = None, near: np.ndarray | None = None
    ) -> Transfer:
        """Label cells.

        Parameters
        ----------
        z
            Cell x latent.
        whole
            The same cells where their distance is to be judged; ``z`` by default (see
            :class:`~remadom.adapters.mixtures.Corrected`).
        near
            The same cells where the nearest vote; ``z`` by default.
        """
        z = np.ascontiguousarray(z, dtype=np.float32)
        if not len(z):
            nothing, zero = np.empty(0, dtype=object), np.empty(0)
            return Transfer(nothing, nothing, zero, nothing, zero, zero)
        index, distance = self.voters.search(z if near is None else near, self.k)
        votes = shares(self.codes[index.numpy()], len(self.names))
        won = votes.argmax(1)
        if whole is not None or near is not None:
            _, distance = self.index.search(z if whole is None else whole, self.k)
        familiar = self.familiarity.chance(distance.numpy().mean(1), won)
        second = self.mixture.posterior(z)[0] @ self.by_cluster
        nearest = self.names[won]
        return Transfer(
            label=np.where(familiar < self.unknown, UNKNOWN, nearest),
            nearest=nearest,
            confidence=np.asarray(self.calibration.predict(votes.max(1))),
            mixture=self.names[second.argmax(1)],
            mixture_confidence=second.max(1),
            familiar=familiar,
        )

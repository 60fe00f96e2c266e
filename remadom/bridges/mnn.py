"""Mutual nearest neighbors between batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from remadom.bridges.base import BRIDGES, Bridge
from remadom.bridges.filtering import agreement
from remadom.bridges.neighbors import joined, near
from remadom.errors import InputError, nearest
from remadom.solvers.ann import Backend, Metric
from remadom.solvers.mutual import mutual_pairs
from remadom.types import BridgeEdges


@BRIDGES.register("mnn")
class MNNBridge(Bridge):
    """Mutual nearest neighbors in the latent between batches (Haghverdi et al. 2018, doi:10.1038/nbt.4091).

    Two cells of different batches are linked when each is among the k nearest of the other's batch. The weight
    falls with the places at which they list each other (1 for two first choices); the confidence is the share
    of the edges around one end that lead to the surroundings of the other, with the k nearest cells of its own
    batch as the surroundings of a cell (:func:`~remadom.bridges.filtering.agreement`).

    Parameters
    ----------
    k
        Neighbors searched in the other batch, and in the cell's own; all cells of a smaller batch.
    metric
        ``"euclidean"`` or ``"cosine"``.
    ann_backend
        Search back end; faiss where it is installed if not given. The edges are the same for all.
    pairs
        With more than two batches: ``"all"`` pairs of batches, or a ``"star"`` from the reference to each.
    reference
        Name of the batch at the center of the star (its code, where :meth:`build` is given no names); the largest
        batch (the first of equals) if not given.
    """

    def __init__(
        self,
        *,
        k: PositiveInt = 20,
        metric: Metric = "euclidean",
        ann_backend: Backend | None = None,
        pairs: Literal["all", "star"] = "all",
        reference: int | str | None = None,
    ) -> None:
        self.k, self.metric, self.ann_backend = k, metric, ann_backend
        self.pairs, self.reference = pairs, reference

    def build(self, z_bio: Tensor, batches: Tensor, batch_names: Sequence[str] | None = None) -> BridgeEdges:
        """Edges between the batches.

        Parameters
        ----------
        z_bio
            Latent of all cells, cell x latent, finite.
        batches
            Code of each cell's batch; -1 is none, and such cells are left out.
        batch_names
            Name of each code.

        Raises
        ------
        InputError
            Fewer than two batches, a reference that is no batch, or no mutual neighbors at all.
        """
        points, codes = z_bio.detach().cpu().numpy(), torch.as_tensor(batches).cpu().numpy()
        cells = {int(code): np.flatnonzero(codes == code) for code in np.unique(codes[codes >= 0])}
        if len(cells) < 2:
            raise InputError(
                f"bridge 'mnn': found {len(cells)} batches with cells, expected at least 2; name an obs column with "
                "several batches in data.batch_key, or choose another bridge.provider"
            )
        inside = {
            code: near(points[own], self.k, self.metric, self.ann_backend) for code, own in cells.items()
        }
        found = []
        for a, b in self._pairs(cells, batch_names):
            i, j, weight = mutual_pairs(
                points[cells[a]], points[cells[b]], self.k, self.metric, self.ann_backend
            )
            found.append((cells[a][i], cells[b][j], weight, agreement(i, j, inside[a], inside[b])))
        edges = joined(found, len(points))
        if not len(edges):
            raise InputError(
                f"bridge 'mnn': found no mutual nearest neighbors between {len(cells)} batches with k = {self.k}; "
                "raise bridge.mnn.k, or train longer before the first edges"
            )
        return edges

    def _pairs(
        self, cells: dict[int, np.ndarray], batch_names: Sequence[str] | None
    ) -> list[tuple[int, int]]:
        if self.pairs == "all":
            return list(combinations(cells, 2))
        if self.reference is None:
            center = max(cells, key=lambda code: len(cells[code]))
        else:
            known = {str(code if batch_names is None else batch_names[code]): code for code in cells}
            if str(self.reference) not in known:
                raise InputError(
                    f"bridge.mnn.reference: unknown batch {str(self.reference)!r}, or one without cells: "
                    f"{nearest(str(self.reference), known)}"
                )
            center = known[str(self.reference)]
        return [(center, code) for code in cells if code != center]

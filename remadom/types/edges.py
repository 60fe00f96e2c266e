"""Correspondences between cells: which pairs, how strong, how sure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from remadom.errors import InputError
from remadom.shapes import Float, Int
from remadom.types.csr import among

Array = Tensor | np.ndarray


@dataclass(frozen=True)
class BridgeEdges:
    """Weighted pairs of cells that a bridge holds to be the same kind of cell.

    Attributes
    ----------
    src, dst
        Positions of the two cells of each edge in the whole data set; ``src`` ascends, and ``dst`` within it.
    weight
        Strength of each edge, non-negative.
    confidence
        How far each edge can be trusted, 0 to 1; 1 where a bridge does not say.
    n_cells
        Cells of the data set.

    Raises
    ------
    InputError
        Arrays of different lengths, positions outside the data set, a negative or non-finite weight.
    """

    src: Int[Tensor, " edge"]
    dst: Int[Tensor, " edge"]
    weight: Float[Tensor, " edge"]
    confidence: Float[Tensor, " edge"]
    n_cells: int

    @classmethod
    def of(
        cls, src: Array, dst: Array, weight: Array | None, n_cells: int, confidence: Array | None = None
    ) -> BridgeEdges:
        """Edges of checked tensors or arrays, in order; a weight or a confidence that is not given is 1."""
        src, dst = torch.as_tensor(src).long(), torch.as_tensor(dst).long()
        ones = torch.ones(len(src), device=src.device)
        weight = ones if weight is None else torch.as_tensor(weight).to(src.device, torch.float32)
        confidence = ones if confidence is None else torch.as_tensor(confidence).to(src.device, torch.float32)
        if not len(src) == len(dst) == len(weight) == len(confidence):
            raise InputError(
                f"edges: found {len(src)} src, {len(dst)} dst, {len(weight)} weights and {len(confidence)} "
                "confidences, expected as many of each"
            )
        both = torch.cat([src, dst])
        if len(both) and (int(both.min()) < 0 or int(both.max()) >= n_cells):
            raise InputError(
                f"edges: found positions {int(both.min())} to {int(both.max())}, expected 0 to {n_cells - 1}"
            )
        if not bool((weight.isfinite() & (weight >= 0)).all()):
            raise InputError("edges: weights must be finite and not negative")
        order = (src * n_cells + dst).argsort()
        return cls(src[order], dst[order], weight[order], confidence[order], n_cells)

    @classmethod
    def none(cls, n_cells: int) -> BridgeEdges:
        """No edge at all."""
        empty = torch.zeros(0, dtype=torch.long)
        return cls.of(empty, empty, None, n_cells)

    def __len__(self) -> int:
        return int(self.src.shape[0])

    @cached_property
    def indptr(self) -> Int[Tensor, " cells_and_one"]:
        """Where the edges of each ``src`` begin."""
        counts = torch.bincount(self.src, minlength=self.n_cells)
        return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def take(self, chosen: Tensor) -> BridgeEdges:
        """The edges at these (ascending) positions, or under this mask."""
        return replace(
            self,
            src=self.src[chosen],
            dst=self.dst[chosen],
            weight=self.weight[chosen],
            confidence=self.confidence[chosen],
        )

    def to(self, device: torch.device | str) -> BridgeEdges:
        """The same edges on a device."""
        return replace(
            self,
            src=self.src.to(device),
            dst=self.dst.to(device),
            weight=self.weight.to(device),
            confidence=self.confidence.to(device),
        )

    def among(self, cells: np.ndarray) -> BridgeEdges:
        """Edges with both ends among some cells, which keep their positions."""
        inside = torch.zeros(self.n_cells, dtype=torch.bool, device=self.src.device)
        inside[torch.as_tensor(cells, device=self.src.device)] = True
        return self.take(inside[self.src] & inside[self.dst])

    def induced(self, index: Int[Tensor, " cell"]) -> BridgeEdges:
        """Edges with both ends among some cells (each at most once), renumbered by their place in ``index``."""
        src, dst, at = among(self.indptr, self.dst, index)
        return BridgeEdges(src, dst, self.weight[at], self.confidence[at], len(index))

    def normalized(self) -> BridgeEdges:
        """Weights divided by the square root of the product of the degrees of both ends."""
        total = torch.zeros(self.n_cells, device=self.weight.device)
        total.index_add_(0, self.src, self.weight).index_add_(0, self.dst, self.weight)
        scale = (total[self.src] * total[self.dst]).sqrt().clamp(min=1e-12)
        return replace(self, weight=self.weight / scale)

    def diagnostics(self) -> dict[str, int | float]:
        """Number of edges, covered cells and their share, mean and largest degree, mean weight, confidence."""
        ends = torch.cat([self.src, self.dst])
        degree = torch.bincount(ends, minlength=self.n_cells)
        covered = int((degree > 0).sum())
        some = max(1, covered)
        return {
            "n_edges": len(self),
            "n_cells_covered": covered,
            "coverage": covered / max(1, self.n_cells),
            "degree_mean": float(degree.sum()) / some,
            "degree_max": int(degree.max()) if len(degree) else 0,
            "weight_mean": float(self.weight.mean()) if len(self) else 0.0,
            "confidence_mean": float(self.confidence.mean()) if len(self) else 0.0,
        }

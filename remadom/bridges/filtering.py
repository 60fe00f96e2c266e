"""Which edges to believe: agreement with their surroundings, allowed groups, the strongest ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from remadom.errors import InputError
from remadom.types import BridgeEdges, SparseGraph

BLOCK = 20_000
"""Edges whose surroundings are held at once."""


def agreement(
    src: np.ndarray, dst: np.ndarray, near_src: sp.csr_matrix, near_dst: sp.csr_matrix
) -> np.ndarray:
    """Share of the edges around one end that lead to the surroundings of the other end, mean of both directions.

    Of the edges that leave the neighbors of ``src``, the share that ends at ``dst`` or one of its neighbors; the
    same from ``dst``; their mean. 0 where no neighbor has an edge. It scores an edge by its neighbors, as the
    shared-neighbor score of anchors does (Stuart et al. 2019, doi:10.1016/j.cell.2019.05.031), but counts only
    neighbors that are themselves linked.

    Parameters
    ----------
    src, dst
        Rows of both sides that each edge links.
    near_src, near_dst
        Neighbors within each side, 0 or 1, without the cell itself: square, a row for every cell of the side.
    """
    shape = (near_src.shape[0], near_dst.shape[0])
    links = sp.csr_matrix((np.ones(len(src)), (src, dst)), shape=shape)

    def one_way(ends: np.ndarray, others: np.ndarray, led: sp.csr_matrix, around: sp.csr_matrix) -> Any:
        """Share of what is led to from the surroundings of ``ends`` that lies around ``others``."""
        total = np.asarray(led.sum(1)).ravel()[ends]
        meets = np.zeros(len(ends))
        for start in range(0, len(ends), BLOCK):
            block = slice(start, start + BLOCK)
            meets[block] = np.asarray(led[ends[block]].multiply(around[others[block]]).sum(1)).ravel()
        return meets / np.where(total > 0, total, 1)

    with_itself = [(side + sp.eye(side.shape[0])).tocsr() for side in (near_src, near_dst)]
    there = one_way(src, dst, (near_src @ links).tocsr(), with_itself[1])
    back = one_way(dst, src, (near_dst @ links.T).tocsr(), with_itself[0])
    share: np.ndarray = (there + back) / 2
    return share


def filter_edges(
    edges: BridgeEdges,
    *,
    graph: SparseGraph | None = None,
    min_agreement: float = 0.0,
    groups: Tensor | None = None,
    allowed: Sequence[tuple[int, int]] | None = None,
    max_edges: int | None = None,
    normalize: bool = False,
) -> BridgeEdges:
    """The edges that pass, in this order: allowed groups, agreement, the strongest; then normalized on request.

    Parameters
    ----------
    edges
        Edges of the whole data set.
    graph
        Neighbors of all cells, needed for ``min_agreement``.
    min_agreement
        Least :func:`agreement` with the edges around, 0 to 1.
    groups, allowed
        Code of each cell, and the pairs of codes that an edge may link, in either direction.
    max_edges
        Keep so many with the largest product of weight and confidence, ties by position.
    normalize
        Divide weights by the square root of the product of the degrees of both ends.

    Raises
    ------
    InputError
        ``min_agreement`` without a graph, ``allowed`` without groups, or not one edge is left.
    """
    kept = edges.to("cpu")
    if allowed is not None:
        if groups is None:
            raise InputError(
                "edges: found pairs of allowed groups, expected the group of each cell with them"
            )
        codes = groups.cpu().numpy() + 1  # -1, no group, becomes 0
        n = max(int(codes.max(initial=0)), *(max(pair) + 1 for pair in allowed), 0) + 1
        least, most = (
            pick(codes[kept.src.numpy()], codes[kept.dst.numpy()]) for pick in (np.minimum, np.maximum)
        )
        keys = [(min(pair) + 1) * n + max(pair) + 1 for pair in allowed]
        kept = kept.take(torch.from_numpy(np.isin(least * n + most, keys)))
    if min_agreement > 0:
        if graph is None:
            raise InputError(
                "edges: found min_agreement > 0, expected a graph to measure it; build one, or set it to 0"
            )
        lists = sp.csr_matrix(
            (np.ones(len(graph.indices)), graph.indices.cpu().numpy(), graph.indptr.cpu().numpy()),
            shape=(len(graph), len(graph)),
        )
        share = agreement(kept.src.numpy(), kept.dst.numpy(), lists, lists)
        kept = kept.take(torch.from_numpy(share >= min_agreement))
    if max_edges is not None and len(kept) > max_edges:
        strongest = (kept.weight * kept.confidence).sort(descending=True, stable=True).indices[:max_edges]
        kept = kept.take(strongest.sort().values)
    if len(edges) and not len(kept):
        raise InputError(
            f"edges: none of {len(edges)} edges is left by the filter; lower min_agreement "
            f"(found {min_agreement}), or allow more pairs of groups"
        )
    return kept.normalized() if normalize else kept


def label_agreement(edges: BridgeEdges, labels: Sequence[Any] | np.ndarray) -> dict[str, float]:
    """Share of edges whose ends have the same label, beside the share that chance would give.

    Chance pairs the same ends at random: the sum over labels of the product of their shares among the sources
    and among the destinations. Edges with an end without a label (None, NaN) are left out; with none left both
    shares are NaN.

    Returns
    -------
    dict
        ``label_agreement``, ``label_agreement_chance``, ``n_labeled_edges``.
    """
    codes, names = pd.factorize(np.asarray(labels, dtype=object))
    src, dst = codes[edges.src.cpu().numpy()], codes[edges.dst.cpu().numpy()]
    known = (src >= 0) & (dst >= 0)
    src, dst, n = src[known], dst[known], int(known.sum())
    if not n:
        return {"label_agreement": np.nan, "label_agreement_chance": np.nan, "n_labeled_edges": 0}
    of_src, of_dst = (np.bincount(ends, minlength=len(names)) / n for ends in (src, dst))
    return {
        "label_agreement": float((src == dst).mean()),
        "label_agreement_chance": float(of_src @ of_dst),
        "n_labeled_edges": n,
    }

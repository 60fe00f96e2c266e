"""The graph and the bridge's edges of a run: rebuilt every so many epochs, handed to the batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from remadom.bridges import Bridge
from remadom.bridges.filtering import filter_edges
from remadom.data.partners import EdgePartners, Partners
from remadom.graph import GraphBuilder
from remadom.types import BridgeEdges, SparseGraph

logger = logging.getLogger(__name__)

GRAPH = tuple(field.name for field in fields(SparseGraph))
EDGES = tuple(field.name for field in fields(BridgeEdges))


class Structure(nn.Module):
    """What ties cells together, over all cells of the data set; only training cells have edges.

    What is built from the latent is built after the first epoch, since an untrained latent knows no neighbors,
    and again every ``refresh`` epochs; what is built from fixed features is built once, before the first.
    A checkpoint holds it, so that a resumed run goes on with the same edges.

    Parameters
    ----------
    cells
        Positions of the training cells, ascending.
    n_cells
        Cells of the data set.
    embed
        Gives the latent of the training cells, cell x latent, on the CPU.
    graph
        Builds the graph, or ``None``.
    graph_features
        What the graph is built from, training cell x component; ``None`` is the latent.
    graph_refresh
        Epochs between two graphs.
    bridge
        Finds the edges, or ``None``.
    bridge_inputs
        What the bridge may read that does not change (see ``remadom.bridges.base.INPUTS``).
    finish
        What is done with the edges that the bridge found, called with them and ``graph``.
    bridge_follows
        Whether the edges depend on the latent.
    bridge_refresh
        Epochs between two sets of edges, where they do.
    features
        Fixed features of each modality for the heads, cell x component, zero where a cell lacks the modality.
    partners
        Edges of each kind along which a seed draws a partner.
    """

    def __init__(
        self,
        cells: np.ndarray,
        n_cells: int,
        embed: Callable[[], Tensor],
        *,
        graph: GraphBuilder | None = None,
        graph_features: np.ndarray | None = None,
        graph_refresh: int = 5,
        bridge: Bridge | None = None,
        bridge_inputs: Mapping[str, Any] | None = None,
        finish: Callable[..., BridgeEdges] = filter_edges,
        bridge_follows: bool = True,
        bridge_refresh: int = 5,
        features: Mapping[str, Tensor] | None = None,
        partners: int = 1,
    ) -> None:
        super().__init__()
        self.cells, self.n_cells, self.embed = cells, n_cells, embed
        self.builder, self.graph_features, self.graph_refresh = graph, graph_features, graph_refresh
        self.bridge, self.bridge_inputs = bridge, dict(bridge_inputs or {})
        self.finish, self.bridge_follows, self.bridge_refresh = finish, bridge_follows, bridge_refresh
        self.features, self.per_seed = dict(features or {}), partners
        self.graph: SparseGraph | None = None
        self.edges: BridgeEdges | None = None
        self.history: list[dict[str, int | float]] = []
        self._tell: Callable[[str, Partners], None] | None = None
        self._told = False

    def attach(self, tell: Callable[[str, Partners], None]) -> None:
        """Hand every new set of edges to a sampler from the next refresh on."""
        self._tell, self._told = tell, False

    @property
    def built(self) -> bool:
        """Whether everything that is to be built has been built once."""
        graph, edges = (
            self.builder is None or self.graph is not None,
            self.bridge is None or self.edges is not None,
        )
        return graph and edges

    def refresh(self, epoch: int) -> None:
        """Rebuild what is due before an epoch, and tell the sampler of the edges there are."""
        latent: Tensor | None = None
        if self.builder is not None:
            follows = self.graph_features is None
            if _due(epoch, follows, self.graph_refresh, self.graph is None):
                latent = self.embed() if follows else None
                points = self.graph_features if latent is None else latent
                assert points is not None
                cells = torch.from_numpy(self.cells)
                self.graph = self.builder.build(points, cells=cells, n_cells=self.n_cells)
                self._told = False
        if self.bridge is not None and _due(
            epoch, self.bridge_follows, self.bridge_refresh, self.edges is None
        ):
            self._rebuild(epoch, self.embed() if self.bridge_follows and latent is None else latent)
        if self._tell is not None and not self._told:
            self._hand_over(self._tell)

    def _rebuild(self, epoch: int, latent: Tensor | None) -> None:
        assert self.bridge is not None
        started = time.perf_counter()
        inputs = dict(self.bridge_inputs)
        if latent is not None:
            whole = torch.zeros(self.n_cells, latent.shape[1])
            whole[torch.from_numpy(self.cells)] = latent
            inputs["z_bio"] = whole
        edges = self.finish(self.bridge.build_from(inputs), graph=self.graph)
        record = {"epoch": epoch, "seconds": time.perf_counter() - started, **edges.diagnostics()}
        if self.edges is not None:
            record["kept"] = shared_share(self.edges, edges)
        self.history.append(record)
        self.edges, self._told = edges, False
        logger.info("bridge: %d edges over %.0f%% of the cells", len(edges), 100 * record["coverage"])

    def _hand_over(self, tell: Callable[[str, Partners], None]) -> None:
        """Hand what has edges to the sampler."""
        self._told = True
        if self.graph is not None:
            indptr, indices = self.graph.indptr.cpu().numpy(), self.graph.indices.cpu().numpy()
            tell("graph", EdgePartners(indptr, indices, self.per_seed))
        if self.edges is not None:
            src, dst = self.edges.src.cpu().numpy(), self.edges.dst.cpu().numpy()
            ends = np.concatenate([src, dst]), np.concatenate([dst, src])
            both = sp.csr_matrix((np.ones(len(ends[0]), np.int8), ends), shape=(self.n_cells, self.n_cells))
            partners = EdgePartners(
                both.indptr.astype(np.int64), both.indices.astype(np.int64), self.per_seed
            )
            tell("bridge", partners)

    def induced(self, index: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
        """What the terms read of this, for the cells of a batch; there are no edges before the first refresh."""
        device = index.device
        given: dict[str, Any] = {}
        if "graph" in names and self.builder is not None:
            if self.graph is not None and self.graph.indices.device != device:
                self.graph = self.graph.to(device)
            given["graph"] = no_graph(len(index), device) if self.graph is None else self.graph.induced(index)
        if "edges" in names and self.bridge is not None:
            if self.edges is not None and self.edges.src.device != device:
                self.edges = self.edges.to(device)
            given["edges"] = (
                BridgeEdges.none(len(index)).to(device) if self.edges is None else self.edges.induced(index)
            )
        if "features" in names:
            self.features = {m: values.to(device) for m, values in self.features.items()}
            given["features"] = {m: values[index] for m, values in self.features.items()}
        return given

    def get_extra_state(self) -> dict[str, Any]:
        """Graph, edges and their history, as tensors and plain values."""
        graph, edges = self.graph, self.edges
        return {
            "graph": None if graph is None else {name: getattr(graph, name) for name in GRAPH},
            "edges": None if edges is None else {name: getattr(edges, name) for name in EDGES},
            "history": self.history,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`get_extra_state`."""
        self.graph = None if state["graph"] is None else SparseGraph(**state["graph"])
        self.edges = None if state["edges"] is None else BridgeEdges(**state["edges"])
        self.history, self._told = list(state["history"]), False


def _due(epoch: int, follows: bool, every: int, missing: bool) -> bool:
    """Whether something is rebuilt before an epoch; what follows the latent waits for the first epoch."""
    if not follows:
        return missing
    return epoch >= 1 and (missing or (epoch - 1) % every == 0)


def no_graph(n: int, device: torch.device) -> SparseGraph:
    """A graph without edges."""
    indptr = torch.zeros(n + 1, dtype=torch.long, device=device)
    return SparseGraph(indptr, indptr[:0], torch.zeros(0, device=device), torch.zeros(n, device=device))


def shared_share(one: BridgeEdges, other: BridgeEdges) -> float:
    """Share of the edges that two sets have in common (Jaccard)."""
    keys = [torch.unique(e.src.cpu() * e.n_cells + e.dst.cpu()) for e in (one, other)]
    both = int(torch.isin(keys[0], keys[1]).sum())
    union = len(keys[0]) + len(keys[1]) - both
    return both / union if union else 1.0

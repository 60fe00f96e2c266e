"""What is added to the ELBO: from the sections of alignment, structure and bridge to terms and edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from remadom.align import AlignmentHead
from remadom.align.base import INPUTS
from remadom.bridges import Bridge
from remadom.bridges.filtering import filter_edges
from remadom.bridges.penalty import BridgePenalty
from remadom.config import components
from remadom.config.schema import RunConfig, StructureSettings
from remadom.core.vae import MosaicVAE
from remadom.data.loader import Codes, Loader
from remadom.data.seeds import known_pairs
from remadom.data.source import Source
from remadom.data.views import views_of
from remadom.errors import InputError, nearest
from remadom.graph import GraphBuilder, GraphRegularizer
from remadom.schedule import schedule_of
from remadom.train.embedding import embed_cells
from remadom.train.objective import Term
from remadom.train.structure import Structure
from remadom.types import View


@dataclass(frozen=True)
class Ties:
    """The components beside the model, before they meet the data."""

    heads: dict[str, AlignmentHead]
    bridge: Bridge | None

    @classmethod
    def of(cls, config: RunConfig) -> Ties:
        """Components of a configuration; raises :class:`InputError`."""
        for name, settings in config.alignment.items():
            if "enabled" not in settings.model_fields_set:
                raise InputError(
                    f"alignment.{name} is configured and neither on nor off; add "
                    f"alignment.{name}.enabled=true, or false"
                )
        heads = {
            name: components.build_head(name, settings)
            for name, settings in config.alignment.items()
            if settings.enabled
        }
        return cls(heads, components.build_bridge(config.bridge))

    @property
    def group_keys(self) -> tuple[str, ...]:
        """Groupings of the cells that the heads compare."""
        return tuple(dict.fromkeys(key for head in self.heads.values() for key in head.group_keys))

    def needs(self, name: str, *, required: bool = False) -> bool:
        """Whether a head reads an input."""
        return any(name in head.inputs(required=required) for head in self.heads.values())


def connect(ties: Ties, config: RunConfig, groups: Mapping[str, Codes], time: np.ndarray | None) -> None:
    """Tell the heads of the groups; raises :class:`InputError` for an input that the run has not."""
    names = {key: names for key, (_, names) in groups.items()}
    given = {"edges": ties.bridge is not None, "time": time is not None}
    for name, head in ties.heads.items():
        where = f"alignment.{name}"
        for needed in head.inputs(required=True):
            if not given.get(needed, True):
                raise InputError(f"{where} needs {INPUTS[needed]}; this run has none")
        try:
            head.connect(names, config.model.latent_bio)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def build_terms(ties: Ties, config: RunConfig) -> dict[str, Term]:
    """What is added to the ELBO, by name."""
    terms = {name: Term.of_head(head) for name, head in ties.heads.items()}
    if config.structure.laplacian_enabled:
        weight = schedule_of(config.structure.laplacian_lambda, "structure.laplacian_lambda")
        terms["laplacian"] = Term(GraphRegularizer(), weight, ("z_bio", "graph"), needs_edges=True)
    if ties.bridge is not None:
        weight = schedule_of(config.bridge.weight, "bridge.weight")
        terms["bridge"] = Term(BridgePenalty(), weight, ("z_bio", "edges"), needs_edges=True)
    return terms


def build_structure(
    ties: Ties,
    config: RunConfig,
    source: Source,
    train: np.ndarray,
    groups: Mapping[str, Codes],
    model: MosaicVAE,
    loader: Loader,
) -> Structure | None:
    """The graph, the edges and the fixed features that the terms read, or ``None`` where none does.

    Parameters
    ----------
    loader
        Batches of the training cells, ascending.
    """
    settings = config.structure
    agreement = ties.bridge is not None and config.bridge.min_agreement > 0
    graph = settings.laplacian_enabled or ties.needs("graph", required=True) or agreement
    if not (graph or ties.bridge or ties.needs("features")):
        return None
    fixed = settings.graph_source != "latent"
    reads = () if ties.bridge is None else ties.bridge.inputs()
    views = {}
    if fixed or "views" in reads or ties.needs("features"):
        views = views_of(source, train)
    cells = np.sort(train)
    codes, names = groups["batch"]
    batches = np.full(source.n_cells, -1, dtype=np.int64)
    batches[cells] = codes[cells]
    inputs = {
        "batches": torch.from_numpy(batches),
        "batch_names": names,
        "views": views,
        "n_cells": source.n_cells,
    }
    if "seeds" in reads:
        inputs["seeds"] = known_pairs(source.obs, config.bridge.seeds)
    return Structure(
        cells,
        source.n_cells,
        lambda: embed_cells(model, loader).z_bio,
        graph=graph_builder(settings) if graph else None,
        graph_features=_graph_features(settings.graph_source, views, cells) if graph and fixed else None,
        graph_refresh=settings.refresh,
        bridge=ties.bridge,
        bridge_inputs=inputs,
        finish=partial(
            filter_edges,
            min_agreement=config.bridge.min_agreement,
            groups=torch.from_numpy(batches),
            allowed=allowed_pairs(config.bridge.groups, names),
            max_edges=config.bridge.max_edges,
            normalize=config.bridge.normalize,
        ),
        bridge_follows="z_bio" in reads or (agreement and not fixed),
        bridge_refresh=config.bridge.refresh,
        features=_feature_tables(views, source.n_cells) if ties.needs("features") else None,
        partners=settings.partners,
    )


def allowed_pairs(
    pairs: Sequence[tuple[str, str]] | None, names: tuple[str, ...]
) -> list[tuple[int, int]] | None:
    """Codes of the pairs of batches that may be joined; raises :class:`InputError` for an unknown batch."""
    for name in (name for pair in pairs or () for name in pair):
        if name not in names:
            raise InputError(f"bridge.groups: unknown batch '{name}': {nearest(name, names)}")
    return None if pairs is None else [(names.index(a), names.index(b)) for a, b in pairs]


def graph_builder(settings: StructureSettings) -> GraphBuilder:
    """Builder of the configured graph."""
    return GraphBuilder(
        k=settings.graph_k,
        metric=settings.graph_metric,
        backend=settings.graph_backend,
        mutual=settings.graph_mutual,
        weights=settings.graph_weights,
        normalized=settings.laplacian_normalized,
    )


def strata_of(keys: tuple[str, ...], groups: Mapping[str, Codes]) -> np.ndarray | None:
    """One group for each combination of the compared groupings; ``None`` where there is nothing to spread."""
    if not keys:
        return None
    combined: np.ndarray = np.unique(np.stack([groups[key][0] for key in keys]), axis=1, return_inverse=True)[
        1
    ].ravel()
    return combined


def _graph_features(name: str, views: Mapping[str, View], cells: np.ndarray) -> np.ndarray:
    if name not in views:
        raise InputError(f"structure.graph_source: unknown '{name}': {nearest(name, ['latent', *views])}")
    view = views[name]
    if not np.array_equal(view.cells, cells):
        raise InputError(
            f"structure.graph_source is {name}, which {len(cells) - len(view.cells)} of {len(cells)} training cells "
            "lack; choose latent, or a modality that every cell has"
        )
    return view.scores


def _feature_tables(views: Mapping[str, View], n_cells: int) -> dict[str, torch.Tensor]:
    """Scores of each modality for every cell, zero where a cell lacks it."""
    tables = {}
    for name, view in views.items():
        table = torch.zeros(n_cells, view.scores.shape[1])
        table[torch.from_numpy(view.cells)] = torch.from_numpy(view.scores)
        tables[name] = table
    return tables

"""The ``adapter`` section of the configuration: how new cells are mapped onto a reference."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from remadom.registry import Section


class AdapterSettings(Section):
    """How new cells are mapped onto a reference."""

    method: Literal["none", "mixtures", "arches"] = "mixtures"
    """What is done about a new batch: nothing, correction of the embedding by soft clusters of the reference, or,
    before that, training of small adapters beside the frozen model, so that the batch has its own decoders too."""

    min_overlap: Annotated[float, Ge(0.0), Le(1.0)] = 0.5
    """Share of the reference's features of a modality that the query must have."""

    feature_table: str | None = None
    """CSV file of names of features that differ, with the columns ``query`` and ``reference`` (and ``modality``, where
    a name occurs in several)."""

    labels: list[str] | None = None
    """Columns of labels to transfer, each a level of its own; null takes those that the reference has."""

    neighbors: PositiveInt = 30
    """Cells of the reference that vote on a label."""

    unknown: Annotated[float, Gt(0.0), Lt(1.0)] = 0.05
    """Share of the reference's own cells that would be called unknown: a cell farther from its neighbors is so."""

    clusters: PositiveInt = 100
    """Most soft clusters of the reference."""

    shrinkage: NonNegativeFloat = 20.0
    """Cells without a shift that are added to each cluster of a new batch."""

    rank: NonNegativeInt = 4
    """Rank of the residual in each hidden layer (arches); 0 leaves an offset for each batch."""

    epochs: PositiveInt = 20
    """Epochs that adapters, or the encoder and decoder of a new modality, are trained for."""

    lr: PositiveFloat = 0.002
    """Their learning rate."""

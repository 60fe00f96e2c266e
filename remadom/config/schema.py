"""The configuration of a run: the guide's sections, and nothing that does nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from remadom.data.settings import DataSettings
from remadom.registry import Section
from remadom.train.settings import LoggingSettings, OptimSettings


@dataclass(frozen=True)
class Later:
    """Marks a key whose feature comes in a later version: any value but its default is refused."""


class _WithLaterKeys(Section):
    """A section that refuses the keys marked :class:`Later`, instead of ignoring them."""

    @model_validator(mode="after")
    def _refuse_later_keys(self) -> _WithLaterKeys:
        for name, field in type(self).model_fields.items():
            later = any(isinstance(mark, Later) for mark in field.metadata)
            if later and getattr(self, name) != field.default:
                raise PydanticCustomError(
                    "later",
                    "'{key}' comes in a later version of remadom; leave it out or set it to {default}",
                    {"key": name, "default": json.dumps(field.default)},
                )
        return self


class ModelSettings(_WithLaterKeys):
    """The generative model."""

    latent_bio: PositiveInt = 16
    """Dimension of the shared latent space."""

    latent_tech: Annotated[NonNegativeInt, Later()] = 0
    """Dimension of a latent space for technical effects (a later version)."""

    encoders: dict[str, dict[str, Any] | None] = {}
    """Encoder by modality: ``in_dim``, ``input`` and the encoder's parameters; null switches one off."""

    decoders: dict[str, dict[str, Any] | None] = {}
    """Decoder by modality: ``out_dim``, ``likelihood``, ``conditional_batches`` and the decoder's parameters;
    null switches one off."""

    fusion_temps: dict[str, PositiveFloat] | list[PositiveFloat] | None = None
    """Temperature of each modality in the product of experts: above 1 trusts it less. A mapping by name, or a
    list in the order of the modalities."""

    beta: NonNegativeFloat | dict[str, Any] = {"schedule": "linear", "start": 0.0, "end": 1.0, "epochs": 20.0}
    """Weight of the KL term: a number, or a schedule by name with its parameters, in epochs."""

    modality_dropout: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    """Probability that a training cell is encoded from a random subset of its modalities."""

    modality_weights: dict[str, NonNegativeFloat] = {}
    """Weight of each modality's reconstruction; 1 where it is not named."""


class HeadSettings(_WithLaterKeys):
    """An alignment head (a later version)."""

    enabled: Annotated[bool, Later()] = False
    """Whether the head is trained (a later version)."""

    params: Annotated[dict[str, Any], Later()] = {}
    """Parameters of the head (a later version)."""


class AlignmentSettings(Section):
    """Alignment heads (a later version)."""

    mmd: HeadSettings = HeadSettings()
    """Kernel maximum mean discrepancy."""

    sinkhorn: HeadSettings = HeadSettings()
    """Sinkhorn divergence."""

    ot: HeadSettings = HeadSettings()
    """Optimal transport plans."""

    gw: HeadSettings = HeadSettings()
    """Gromov-Wasserstein."""

    crossgraph: HeadSettings = HeadSettings()
    """Cross-graph correspondences."""

    temporal: HeadSettings = HeadSettings()
    """Temporal couplings."""


class StructureSettings(_WithLaterKeys):
    """The kNN graph and its Laplacian penalty (a later version)."""

    laplacian_enabled: Annotated[bool, Later()] = False
    """Whether the penalty is added (a later version)."""

    laplacian_lambda: Annotated[NonNegativeFloat, Later()] = 0.0
    """Its weight (a later version)."""

    laplacian_normalized: Annotated[bool, Later()] = False
    """Whether the Laplacian is normalized (a later version)."""

    graph_backend: Annotated[Literal["faiss", "hnsw", "numpy"] | None, Later()] = None
    """Nearest-neighbor backend (a later version)."""

    graph_metric: Annotated[Literal["euclidean", "cosine"] | None, Later()] = None
    """Distance of the graph (a later version)."""


class MNNSettings(_WithLaterKeys):
    """Mutual nearest neighbors (a later version)."""

    k: Annotated[PositiveInt | None, Later()] = None
    """Neighbors (a later version)."""

    metric: Annotated[Literal["euclidean", "cosine"] | None, Later()] = None
    """Distance (a later version)."""

    ann_backend: Annotated[Literal["faiss", "hnsw", "numpy"] | None, Later()] = None
    """Nearest-neighbor backend (a later version)."""


class BridgeSettings(_WithLaterKeys):
    """Bridges between batches or modalities (a later version)."""

    provider: Annotated[str | None, Later()] = None
    """Where correspondences come from (a later version)."""

    refresh: Annotated[PositiveInt | None, Later()] = None
    """Epochs between rebuilds (a later version)."""

    mnn: MNNSettings = MNNSettings()
    """Mutual nearest neighbors."""


class EvaluationSettings(Section):
    """What is measured after training."""

    label_key: str = "cell_type"
    """Column of obs with the cell types, for metrics and figures; they are left out where it is missing."""

    holdout_key: str = "heldout_truth"
    """Column in a modality's own obs: cells flagged there keep that modality out of training, for scoring."""

    max_cells: PositiveInt = 5000
    """Metrics and figures use at most this many cells, drawn with the seed."""

    figures: bool = True
    """Whether figures are drawn."""


class RunConfig(Section):
    """Everything that a run depends on."""

    data: DataSettings = DataSettings()
    """Where the cells are and how they are read."""

    model: ModelSettings = ModelSettings()
    """The generative model."""

    alignment: AlignmentSettings = AlignmentSettings()
    """Alignment heads."""

    structure: StructureSettings = StructureSettings()
    """Graph regularization."""

    bridge: BridgeSettings = BridgeSettings()
    """Bridges."""

    optim: OptimSettings = OptimSettings()
    """How the model is trained."""

    logging: LoggingSettings = LoggingSettings()
    """What the run leaves and where."""

    evaluation: EvaluationSettings = EvaluationSettings()
    """What is measured after training."""

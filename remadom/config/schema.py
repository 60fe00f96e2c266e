"""The configuration of a run: the guide's sections, and nothing that does nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from remadom.adapters.settings import AdapterSettings
from remadom.data.settings import DataSettings, Holdout
from remadom.registry import Section
from remadom.schedule import Scheduled
from remadom.train.settings import LoggingSettings, OptimSettings


class ModelSettings(Section):
    """The generative model."""

    latent_bio: PositiveInt = 16
    """Dimension of the shared latent space."""

    latent_tech: NonNegativeInt = 0
    """Dimension of a latent space for technical effects, ``z_tech``, which the batch explains; 0 has none."""

    encoders: dict[str, dict[str, Any] | None] = {}
    """Encoder by modality: ``in_dim``, ``input`` and the encoder's parameters; null switches one off."""

    decoders: dict[str, dict[str, Any] | None] = {}
    """Decoder by modality: ``out_dim``, ``likelihood``, ``conditional_batches`` and the decoder's parameters;
    null switches one off."""

    fusion_temps: dict[str, PositiveFloat] | list[PositiveFloat] | None = None
    """Temperature of each modality in the product of experts: above 1 trusts it less. A mapping by name, or a
    list in the order of the modalities."""

    beta: Scheduled = {"schedule": "linear", "start": 0.0, "end": 1.0, "epochs": 20.0}
    """Weight of the KL term: a number, or a schedule by name with its parameters, in epochs."""

    correction: bool = True
    """Whether ``z_bio`` is freed of what batches lie apart in soft clusters of the embedding, once after training,
    where there are several batches and cells that link the modalities."""

    coordinates: Literal["decoded", "latent"] = "decoded"
    """Coordinates of ``z_bio``: ``decoded``, principal components of what cells decode to, or those of the latent."""

    modality_dropout: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    """Probability that a training cell is encoded from a random subset of its modalities."""

    modality_weights: dict[str, NonNegativeFloat] = {}
    """Weight of each modality's reconstruction; 1 where it is not named."""


class HeadSettings(Section):
    """An alignment head."""

    enabled: bool = False
    """Whether the head is trained."""

    kind: str | None = None
    """Which head; null is the one that the section is named after. Two of one kind have sections of other names."""

    params: dict[str, Any] = {}
    """Parameters of the head (see the page of components)."""


class StructureSettings(Section):
    """The kNN graph, its Laplacian penalty, and how edges and groups reach the batches."""

    laplacian_enabled: bool = False
    """Whether the penalty on the distances between neighbors is added."""

    laplacian_lambda: Scheduled = 0.001
    """Its weight: a number or a schedule."""

    laplacian_normalized: bool = False
    """Whether the Laplacian is normalized by the degrees."""

    graph_source: str = "latent"
    """What the graph is built from: the latent, or a modality's own features."""

    graph_k: PositiveInt = 15
    """Neighbors of a cell."""

    graph_metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance between cells."""

    graph_backend: Literal["faiss", "hnsw", "numpy"] | None = None
    """Nearest-neighbor backend; null takes faiss where it is installed, else numpy."""

    graph_mutual: bool = False
    """Keep only neighbors that are so for each other."""

    graph_weights: Literal["connectivity", "gaussian"] = "connectivity"
    """Weights of the edges: all 1, or falling with the distance."""

    refresh: PositiveInt = 5
    """Epochs between two graphs of the latent."""

    partners: NonNegativeInt = 1
    """Edges of each kind along which a seed draws a partner into its batch; 0 draws none."""

    group_cells: NonNegativeInt = 32
    """Cells of each compared group that a batch has at least, as far as the group has them; 0 adds none."""


class BridgeSettings(Section):
    """Where correspondences between cells come from; each provider has a block of its own name beside these keys."""

    model_config = ConfigDict(extra="allow")

    provider: str | None = None
    """Which bridge finds the edges; null has none."""

    refresh: PositiveInt = 5
    """Epochs between two sets of edges, where the bridge looks at the latent."""

    weight: Scheduled = 0.3
    """Weight of the distance along the edges: a number or a schedule."""

    seeds: str | None = None
    """Known pairs, for the provider that grows them: a CSV file with two columns of cell names, or a column of obs
    whose equal values pair cells."""

    normalize: bool = False
    """Divide the weight of an edge by the root of its ends' degrees."""

    max_edges: PositiveInt | None = None
    """Keep this many of the strongest edges."""

    min_agreement: Annotated[float, Ge(0.0), Le(1.0)] = 0.0
    """Keep edges that this share of the edges of neighboring cells agrees with."""

    groups: list[tuple[str, str]] | None = None
    """Pairs of batches that may be joined; null allows all."""

    @property
    def blocks(self) -> dict[str, Any]:
        """Blocks of the providers."""
        return dict(self.model_extra or {})


class EvaluationSettings(Section):
    """What is measured after training."""

    label_key: str = "cell_type"
    """Column of obs with the cell types, for metrics and figures; they are left out where it is missing."""

    holdout_key: str = "heldout_truth"
    """Column in a modality's own obs: cells flagged there keep that modality out of training, for scoring."""

    holdout: dict[str, Holdout] = {}
    """More cells that keep a modality out of training, for scoring, by modality."""

    truth_key: str | None = "truth_"
    """Where the data tells the values of cells that lack a modality, for scoring only: ``obsm[<truth_key><modality>]``,
    as mock data do; null reads none."""

    max_cells: PositiveInt = 5000
    """Metrics and figures use at most this many cells, drawn with the seed."""

    layout: Literal["auto", "umap", "pca", "tsne"] = "auto"
    """Plane in which the embedding is drawn: by UMAP where it is installed and PCA otherwise, or by one of them."""

    figures: bool = True
    """Whether figures are drawn."""

    metrics: dict[str, dict[str, Any] | None] = {}
    """More metrics of the embedding, by their name in the registry, each with its parameters."""


class RunConfig(Section):
    """Everything that a run depends on."""

    data: DataSettings = DataSettings()
    """Where the cells are and how they are read."""

    model: ModelSettings = ModelSettings()
    """The generative model."""

    alignment: dict[str, HeadSettings] = {}
    """Alignment heads by name."""

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

    adapter: AdapterSettings = AdapterSettings()
    """How new cells are mapped onto this model as a reference."""

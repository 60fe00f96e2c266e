"""The ``data`` section of the configuration, and what keeps values out of training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import ConfigDict, NonNegativeFloat, PositiveInt, ValidationError, model_validator

from remadom.data.modality import MODALITIES
from remadom.errors import nearest
from remadom.registry import Section, error_lines, refuse

Fraction = Annotated[float, Ge(0.0), Lt(1.0)]


class RNAPreprocess(Section):
    """What is done to the RNA before training."""

    hvg: PositiveInt | None = None
    """Number of highly variable genes to keep; null keeps all."""

    flavor: Literal["seurat_v3", "variance"] = "seurat_v3"
    """How they are chosen: scanpy's ``seurat_v3`` where scanpy is installed, else (and by ``variance``) the variance
    of Pearson residuals."""


class FeatureSelection(Section):
    """What is done to a modality that has no section of its own kind."""

    min_cells: NonNegativeFloat = 0.0
    """Keep the features that at least this many cells show (a value under 1: this fraction of them)."""

    n_top: PositiveInt | None = None
    """Keep the features that most cells show; null keeps all."""


class LSI(Section):
    """Latent semantic indexing of the peaks: the encoder reads it in place of the peaks."""

    enabled: bool = False
    """Encode LSI components; the peaks themselves are still decoded where a decoder is configured."""

    n_components: PositiveInt = 50
    """Components kept."""

    obsm_key: str = "X_lsi"
    """Key in ``obsm``: read where the file has it, else computed under this name."""

    drop_depth: bool = True
    """Leave out the first component where it follows the sequencing depth (\\|Spearman\\| > 0.5)."""


class ATACPreprocess(Section):
    """What is done to the peaks before training."""

    binarize: bool = True
    """Read every count above zero as one."""

    min_cells: NonNegativeFloat = 0.0
    """Keep the peaks that are open in at least this many cells (a value under 1: this fraction of them)."""

    n_top: PositiveInt | None = None
    """Keep the most open peaks; null keeps all."""

    lsi: LSI = LSI()
    """Latent semantic indexing."""


class Preprocess(Section):
    """Preprocessing by modality; statistics are fitted on the training cells and reused.

    Every other registered modality has a section of its own name beside these, with ``min_cells`` and ``n_top``.
    """

    model_config = ConfigDict(extra="allow")

    rna: RNAPreprocess = RNAPreprocess()
    """RNA."""

    atac: ATACPreprocess = ATACPreprocess()
    """ATAC."""

    def of(self, modality: str) -> RNAPreprocess | ATACPreprocess | FeatureSelection:
        """Section of a modality."""
        section: RNAPreprocess | ATACPreprocess | FeatureSelection
        section = getattr(self, modality, FeatureSelection())
        return section

    @model_validator(mode="before")
    @classmethod
    def _read_others(cls, values: Any) -> Any:
        """Sections of the modalities that are no field."""
        if not isinstance(values, dict):
            return values
        read = dict(values)
        for modality in values.keys() - cls.model_fields.keys():
            if modality not in MODALITIES:
                refuse(f"unknown modality '{modality}': {nearest(str(modality), MODALITIES)}")
            if not isinstance(values[modality], FeatureSelection):
                try:
                    read[modality] = FeatureSelection.model_validate(values[modality])
                except ValidationError as error:
                    refuse(*error_lines(error, modality))
        return read


class CovariateSettings(Section):
    """What the decoders are given of each cell beside its batch, so that the latent need not hold it."""

    continuous: tuple[str, ...] = ()
    """Columns of obs with numbers."""

    categorical: tuple[str, ...] = ()
    """Columns of obs with categories."""


class DataSettings(Section):
    """Where the cells are and how they are read."""

    path: str | None = None
    """File: .h5ad, .h5mu or .zarr."""

    modalities: tuple[str, ...] | None = None
    """Modalities to use; null uses every one that the file has."""

    keys: dict[str, str] = {}
    """Matrix of each modality: ``X``, ``layers:<name>``, ``obsm:<name>``; in MuData ``<modality>:X`` and so on."""

    batch_key: str = "batch"
    """Column of obs with the batch."""

    dataset_key: str = "dataset"
    """Column of obs with the data set or study."""

    time_key: str = "time"
    """Column of obs with the time."""

    covariates: CovariateSettings = CovariateSettings()
    """Covariates of the cells."""

    split_key: str | None = None
    """Column of obs that says train, val or test; null splits by ``val_fraction``."""

    val_fraction: Fraction = 0.1
    """Share of the cells kept for validation, drawn with the seed."""

    backed: bool = False
    """Read each batch from disk instead of holding the matrices in memory."""

    preprocess: Preprocess = Preprocess()
    """Preprocessing."""


class Holdout(Section):
    """Cells that keep a modality out of training; what several keys name is joined."""

    key: str | None = None
    """Column of obs that is true for them."""

    file: str | None = None
    """Text file with a name of a cell in each line."""

    batches: list[str] | None = None
    """All cells of these batches."""

    fraction: Annotated[float, Gt(0.0), Lt(1.0)] | None = None
    """Share of the cells that have this modality and another one, drawn with the seed."""

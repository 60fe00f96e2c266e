"""What each modality is: the one entry that a new modality costs."""

from __future__ import annotations

from dataclasses import dataclass

from remadom.errors import InputError, nearest


@dataclass(frozen=True)
class Modality:
    """What remadom assumes of a kind of measurement unless the configuration says otherwise.

    Parameters
    ----------
    name
        Key in every dictionary, configuration section and file.
    title
        The name in tables and figures.
    aliases
        Other names of it in MuData files (compared in lower case).
    feature_types
        Values of ``var["feature_types"]`` that mark its features (10x Genomics).
    keys
        Where an AnnData keeps its matrix, the first that exists: ``X``, ``layers:<name>``, ``obsm:<name>``.
    likelihood
        Name of its decoder in the decoder registry.
    encoder_input
        Name of what its encoder makes of the counts, in the input registry.
    library
        Whether its decoder scales with the cell's total.
    feature_names
        Regular expression of what its feature names look like, where they say what it is.
    size_key
        Setting that chooses the number of its features, where there is one.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    feature_types: tuple[str, ...]
    keys: tuple[str, ...]
    likelihood: str
    encoder_input: str
    library: bool = False
    feature_names: str | None = None
    size_key: str | None = None


MODALITIES: dict[str, Modality] = {}


def register_modality(modality: Modality) -> Modality:
    """Make a modality known; its name can be taken only once."""
    if modality.name in MODALITIES:
        raise InputError(f"modality '{modality.name}' is already registered; choose another name")
    MODALITIES[modality.name] = modality
    return modality


def modality_named(name: str) -> Modality:
    """Entry of a modality.

    Raises
    ------
    InputError
        No modality of that name is registered; the message lists those that are.
    """
    if name not in MODALITIES:
        raise InputError(f"unknown modality '{name}': {nearest(name, MODALITIES)}")
    return MODALITIES[name]


register_modality(
    Modality(
        name="rna",
        title="RNA",
        aliases=("gex", "gene", "genes", "expression", "gene expression"),
        feature_types=("Gene Expression",),
        keys=("layers:counts", "X"),
        likelihood="zinb",
        encoder_input="lognorm",
        library=True,
        size_key="data.preprocess.rna.hvg",
    )
)
register_modality(
    Modality(
        name="atac",
        title="ATAC",
        aliases=("peaks", "peak", "accessibility", "chromatin"),
        feature_types=("Peaks",),
        keys=("obsm:X_atac", "layers:atac"),
        likelihood="bernoulli",
        encoder_input="tfidf",
        feature_names=r"\S+[:_-]\d+[-_]\d+",
        size_key="data.preprocess.atac.n_top",
    )
)
register_modality(
    Modality(
        name="adt",
        title="ADT",
        aliases=("prot", "protein", "proteins", "cite", "antibody", "antibodies"),
        feature_types=("Antibody Capture",),
        keys=("obsm:X_adt", "obsm:protein_expression", "layers:adt"),
        likelihood="poisson_mixture",
        encoder_input="clr",
    )
)

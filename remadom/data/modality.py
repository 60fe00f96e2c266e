"""What each modality is: the one entry that a new modality costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from remadom.errors import InputError, nearest

Kind = Literal["lognorm", "tfidf", "clr", "features", "scores"]
"""What a matrix is read as where cells are compared: counts to normalize in one of three ways, features of many
columns that were made comparable already, or low-dimensional scores to use as they are."""


@dataclass(frozen=True)
class Modality:
    """What remadom assumes of a kind of measurement unless the configuration says otherwise.

    Parameters
    ----------
    name
        Key in every dictionary, configuration section and file: small letters, digits and ``_``.
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
    comparable
        What bridges, graphs and baselines read its values as: see ``Kind``; null is the kind that its encoder input
        is named after, else ``lognorm``.
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
    comparable: Kind | None = None


MODALITIES: dict[str, Modality] = {}


def register_modality(modality: Modality) -> Modality:
    """Make a modality known; its name and its aliases can be taken only once.

    Raises
    ------
    InputError
        A name that is taken, or that cannot be part of a setting, a file name and the name of a score.
    """
    name = modality.name
    if name in MODALITIES:
        raise InputError(f"modality '{name}' is already registered; choose another name")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or "_to_" in name or name == "none":
        raise InputError(
            f"modality '{name}': expected small letters, digits and '_', beginning with a letter, without '_to_', "
            "and not 'none'; choose another name, and give others as aliases"
        )
    if modality.comparable is not None and modality.comparable not in get_args(Kind):
        known = nearest(modality.comparable, get_args(Kind))
        raise InputError(f"modality '{name}': comparable is '{modality.comparable}': {known}")
    taken = {word: other.name for other in MODALITIES.values() for word in (other.name, *other.aliases)}
    for word in (name, *modality.aliases):
        if word in taken:
            raise InputError(
                f"modality '{name}': the name '{word}' belongs to '{taken[word]}'; choose another"
            )
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
register_modality(
    Modality(
        name="methylation",
        title="Methylation",
        aliases=("meth", "dna methylation", "mcg", "cpg", "bisulfite"),
        feature_types=(),
        keys=("obsm:X_methylation", "layers:methylation"),
        likelihood="beta",
        encoder_input="standardized",
        comparable="features",
    )
)

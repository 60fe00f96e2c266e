"""What measures and modalities are called for readers, what a measure says, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from remadom.data.modality import MODALITIES
from remadom.eval.metric import METRICS

Better = Literal["higher", "lower", ""]


class Measure(NamedTuple):
    """Name for readers, what it says, and which way is better (empty: neither)."""

    title: str
    words: str = ""
    better: Better = ""


MEASURES: dict[str, Measure] = {
    "nmi": Measure("NMI", "clusters beside labels: mutual information, 1 is equal", "higher"),
    "ari": Measure("ARI", "clusters beside labels: pairs of cells, 1 is equal, 0 is chance", "higher"),
    "clustering": Measure("clustering", "how the clusters of NMI and ARI were found"),
    "asw_label": Measure("silhouette of labels", "labels lie apart, (s + 1) / 2", "higher"),
    "clisi": Measure("cLISI", "neighbors share the label, 1 is all", "higher"),
    "isolated_label": Measure("isolated labels", "labels that few batches have are found again", "higher"),
    "ilisi": Measure("iLISI", "neighbors come from all batches, 1 is evenly", "higher"),
    "asw_batch": Measure("silhouette of batches", "batches of a label lie together, 1 is wholly", "higher"),
    "graph_connectivity": Measure("graph connectivity", "cells of a label hang together", "higher"),
    "kbet": Measure("kBET", "neighborhoods with the composition of all cells", "higher"),
    "pcr": Measure("PC regression", "variance that batches no longer explain", "higher"),
    "bio": Measure("biology", "mean of the scores of the labels", "higher"),
    "batch": Measure("batches", "mean of the scores of the batches", "higher"),
    "total": Measure("total", "0.6 biology + 0.4 batches", "higher"),
    "knn_purity": Measure("kNN purity", "share of the 15 nearest cells with the same label", "higher"),
    "knn_purity_chance": Measure("kNN purity by chance", "the same for a random embedding"),
    "n_cells": Measure("cells", "that this was computed on"),
    "n_features": Measure("features"),
    "n_labeled": Measure("labeled cells"),
    "n_labels": Measure("labels"),
    "n_batches": Measure("batches, number"),
    "foscttm": Measure("FOSCTTM", "share of cells nearer than the true partner, 0.5 is chance", "lower"),
    "matching_score": Measure("matching score", "weight on the true partner", "higher"),
    "modality_mixing": Measure("modality mixing", "neighbors come from both modalities", "higher"),
    "pearson": Measure("Pearson", "over the cells, mean over the features", "higher"),
    "pearson_cell": Measure("Pearson in a cell", "over the features, mean over the cells", "higher"),
    "spearman": Measure("Spearman", "over the cells, mean over the features", "higher"),
    "spearman_cell": Measure("Spearman in a cell", "over the features, mean over the cells", "higher"),
    "rmse": Measure("RMSE", "on log(1 + count), at the cell's true total", "lower"),
    "nrmse": Measure("NRMSE", "error over the feature's standard deviation", "lower"),
    "auroc_cell": Measure("AUROC in a cell", "open features come first", "higher"),
    "auprc_cell": Measure("AUPRC in a cell", "open features come first", "higher"),
    "auroc_feature": Measure("AUROC of a feature", "cells in which it is open come first", "higher"),
    "auprc_feature": Measure("AUPRC of a feature", "cells in which it is open come first", "higher"),
    "prevalence": Measure("prevalence", "share of values that are not 0"),
    "coverage_90": Measure("coverage", "share of held-out values in their 90 % interval"),
    "interval_width": Measure("interval width", "mean width of the 90 % intervals"),
}

BALANCED = "_balanced"
"""Ends the name of a score that is a mean over the labels."""

METHODS = {"mean": "training mean", "knn": "kNN", "ridge": "ridge"}


def measure(name: str) -> Measure:
    """The entry of a measure; of label transfer by its name, of a registered metric by its docstring.

    Of an unknown one the name alone.
    """
    if name in MEASURES:
        return MEASURES[name]
    registered = name.partition(".")[0]
    if registered in METRICS:
        metric = METRICS[registered]
        sentence = " ".join((metric.__doc__ or "").split()).partition(". ")[0].removesuffix(".")
        return Measure(name, sentence[:1].lower() + sentence[1:], metric.better)
    source, to, target = name.removeprefix("label_transfer_").partition("_to_")
    if name.startswith("label_transfer_") and to:
        balanced = target.endswith(BALANCED)
        return Measure(
            f"labels {titled(source)} to {titled(target.removesuffix(BALANCED))}",
            f"share of cells that are given their own label{', mean over the labels' * balanced}",
            "higher",
        )
    return Measure(name)


def titled(modality: str) -> str:
    """Title of a modality; the name itself where the modality is not known here."""
    return MODALITIES[modality].title if modality in MODALITIES else modality


def pair_titled(pair: str) -> str:
    """Titles of the two modalities of a name such as ``rna-adt``."""
    return " and ".join(map(titled, pair.split("-")))


def method(name: str) -> str:
    """A baseline as a reader calls it."""
    return METHODS.get(name, name)


def known(value: Any) -> bool:
    """Whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def best(name: str, values: Sequence[Any]) -> list[int]:
    """Places of the best values of a measure; none where all are alike or no way is better."""
    better = measure(name).better
    numbers = [value for value in values if known(value)]
    if not better or len(set(numbers)) < 2:
        return []
    top = max(numbers) if better == "higher" else min(numbers)
    return [at for at, value in enumerate(values) if value == top]

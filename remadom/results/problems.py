"""What is special to each type of problem: measured beside the scores that every run has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from remadom.config.build import Assembly
from remadom.eval.imputation import imputation_metrics
from remadom.eval.metrics import embedding_metrics
from remadom.eval.scales import scale_of
from remadom.results.arrays import batches_of, labels_of, names_of, patterns_of
from remadom.results.imputation import Predicted, alone, expected_of
from remadom.results.intervals import true_values
from remadom.types import Latent

CELLS = 1000
"""Most cells on which reconstruction and prediction from one modality are measured."""
FEWEST = 10
"""Cells from which a group has scores of its own."""

Scores = dict[str, Any]


def paired(assembly: Assembly, latent: Latent, predicted: Mapping[str, Predicted]) -> Scores:
    """Reconstruction of each modality, and each predicted from each other alone, on validation and test cells."""
    source, model = assembly.source, assembly.model
    unseen = np.sort(np.concatenate([assembly.split.val, assembly.split.test]))[:CELLS]
    reconstruction, crossed = {}, {}
    for target in model.decoders:
        cells = unseen[source.has[target][unseen]]
        if len(cells) < FEWEST:
            continue
        features = predicted[target].features if target in predicted else slice(None)
        truth = true_values(assembly, target, cells)[:, features]
        scale = scale_of(model.decoder(target).support)
        guess = expected_of(assembly, source, target, cells)[:, features]
        reconstruction[target] = imputation_metrics(guess, truth, scale)
        for origin in model.encoders:
            both = source.has[origin][cells]
            if origin == target or both.sum() < FEWEST:
                continue
            guess = expected_of(assembly, alone(source, origin, cells), target, cells[both])[:, features]
            crossed[f"{origin}_to_{target}"] = imputation_metrics(guess, truth[both], scale)
    return {"reconstruction": reconstruction, "cross_modal": crossed}


def unpaired(assembly: Assembly, latent: Latent, predicted: Mapping[str, Predicted]) -> Scores:
    """How far the cells of different modalities lie apart in the latent space."""
    patterns, z = patterns_of(assembly), latent.z_bio.numpy()
    scores = embedding_metrics(
        z,
        labels_of(assembly),
        patterns,
        max_cells=assembly.config.evaluation.max_cells,
        seed=assembly.config.optim.seed,
    )
    return {
        "modality_variance": variance_between(z, patterns),
        "batch_variance": variance_between(z, assembly.groups["batch"][0]),
        "modality_ilisi": scores.get("ilisi"),
        "modality_silhouette": scores.get("asw_batch"),
    }


def bridge(assembly: Assembly, latent: Latent, predicted: Mapping[str, Predicted]) -> Scores:
    """Imputation by cohort, for those whose truth is known, and what the bridge found."""
    structure = assembly.objective.structure
    edges = None if structure is None or structure.edges is None else structure.edges
    found = {"provider": assembly.config.bridge.provider, "n_edges": 0 if edges is None else len(edges)}
    return {"cohorts": by_group(names_of(assembly, "batch"), predicted), "edges": found}


def mosaic(assembly: Assembly, latent: Latent, predicted: Mapping[str, Predicted]) -> Scores:
    """Share of values that are missing, and imputation by what the cells have."""
    source = assembly.source
    missing = {m: float(1 - source.has[m].mean()) for m in source.modalities}
    return {"missing": missing, "patterns": by_group(patterns_of(assembly), predicted)}


def prediction(assembly: Assembly, latent: Latent, predicted: Mapping[str, Predicted]) -> Scores:
    """Correlation and error of the target: the modality that the fewest cells have."""
    source = assembly.source
    target = min(source.modalities, key=lambda m: int(source.has[m].sum()))
    lacking = int((~source.has[target]).sum())
    scores = predicted[target].scores if target in predicted else {}
    names = ("pearson", "pearson_cell", "rmse", "nrmse", "auroc_cell", "auroc_feature")
    return {"target": target, "n_lacking": lacking, **{n: scores[n] for n in names if n in scores}}


def hierarchical(assembly: Assembly, latent: Latent, predicted: Mapping[str, Predicted]) -> Scores:
    """Mixing of the data sets, and of the batches within each of them; biology is in ``integration``."""
    z, labels = latent.z_bio.numpy(), labels_of(assembly)
    studies, batches = names_of(assembly, "dataset"), batches_of(assembly)
    settings, seed = assembly.config.evaluation, assembly.config.optim.seed

    def mixed(cells: np.ndarray, groups: np.ndarray) -> Scores:
        scores = embedding_metrics(
            z[cells],
            None if labels is None else labels[cells],
            groups[cells],
            max_cells=settings.max_cells,
            seed=seed,
        )
        kept: Scores = {
            name: scores[name] for name in ("ilisi", "asw_batch", "kbet", "bio") if name in scores
        }
        return {"variance": variance_between(z[cells], groups[cells]), **kept}

    everything = np.arange(len(z))
    levels: Scores = {"dataset": mixed(everything, studies)}
    if batches is not None:
        levels["batch"] = mixed(everything, batches)
        levels["batch_within_dataset"] = {
            str(study): mixed(np.flatnonzero(studies == study), batches)
            for study in np.unique(studies)
            if len(np.unique(batches[studies == study])) > 1
        }
    return levels


PROBLEMS: dict[str, Callable[[Assembly, Latent, Mapping[str, Predicted]], Scores]] = {
    "paired": paired,
    "unpaired": unpaired,
    "bridge": bridge,
    "mosaic": mosaic,
    "prediction": prediction,
    "hierarchical": hierarchical,
}
"""What is measured, by the type of the problem."""


def variance_between(z: np.ndarray, groups: np.ndarray) -> float:
    """Share of the variance of the embedding that lies between the means of the groups, 0 to 1."""
    _, codes = np.unique(groups, return_inverse=True)
    total = ((z - z.mean(0)) ** 2).sum()
    sizes = np.bincount(codes)
    means = np.stack([np.bincount(codes, weights=column) / sizes for column in z.T], axis=1)
    between = (sizes[:, None] * (means - z.mean(0)) ** 2).sum()
    return float(between / total) if total > 0 else 0.0


def by_group(groups: np.ndarray, predicted: Mapping[str, Predicted]) -> Scores:
    """Imputation scores of the cells of each group, by target."""
    found: Scores = {}
    for target, values in predicted.items():
        names = groups[values.cells]
        for name in np.unique(names):
            rows = names == name
            if rows.sum() >= FEWEST:
                scores = imputation_metrics(values.expected[rows], values.truth[rows], values.scale)
                found.setdefault(str(name), {})[target] = {"n_cells": int(rows.sum()), **scores}
    return found

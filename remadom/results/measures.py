"""Everything that is measured of a trained run: the contents of its JSON files."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import remadom
from remadom.config.build import Assembly
from remadom.config.components import build_metrics
from remadom.data.sampler import Draw
from remadom.data.views import views_of
from remadom.eval.alignment import alignment_metrics
from remadom.eval.bridging import bridge_metrics
from remadom.eval.metric import measured
from remadom.eval.metrics import embedding_metrics
from remadom.results.agreement import modalities, trusted
from remadom.results.arrays import batches_of, labels_of, names_of, patterns_of
from remadom.results.imputation import Predicted, predictions
from remadom.results.problems import PROBLEMS
from remadom.train.callbacks import History
from remadom.types import Latent
from remadom.utils.seed import derive

ALIGNED = 2000
"""Cells on which the alignment terms are measured after training."""

PACKAGES = ("torch", "numpy", "scipy", "pandas", "anndata", "mudata", "scikit-learn")


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of a run.

    Attributes
    ----------
    metrics
        Contents of ``metrics.final.json``.
    alignment, bridge
        Those of ``alignment_metrics.json`` and ``bridge_metrics.json``; ``None`` where there is nothing.
    predicted
        Held-out values and their predictions, by modality.
    """

    metrics: dict[str, Any]
    alignment: dict[str, Any] | None
    bridge: dict[str, Any] | None
    predicted: Mapping[str, Predicted]


def measure(assembly: Assembly, latent: Latent, history: History) -> Measured:
    """Measure a run.

    Parameters
    ----------
    assembly
        As trained.
    latent
        Embedding of every cell.
    history
        Of its training.
    """
    aligned = alignment(assembly, history) if assembly.objective.terms else None
    bridged = bridging(assembly)
    predicted = predictions(assembly)
    trust = trusted(assembly, latent)
    kind = assembly.diagnosis.problem.kind
    best = _best(history)
    metrics = {
        "run": _run(assembly, history),
        "train": best.get("train", {}),
        "val": best.get("val", {}),
        "alignment": {name: section["final"] for name, section in (aligned or {}).items()},
        "bridge": {k: v for k, v in (bridged or {}).items() if isinstance(v, str | int | float)},
        "evaluation": {
            "integration": integration(assembly, latent),
            "modalities": modalities(assembly),
            "imputation": {name: values.scores for name, values in predicted.items()},
            **({} if trust is None else {"trust": trust}),
            **({"metrics": named(assembly, latent)} if assembly.config.evaluation.metrics else {}),
            kind: PROBLEMS[kind](assembly, latent, predicted),
        },
    }
    return Measured(metrics, aligned, bridged, predicted)


def _best(history: History) -> Mapping[str, Any]:
    last: Mapping[str, Any] = history.history[-1] if history.history else {}
    return next((row for row in history.history if row["epoch"] == history.best_epoch), last)


def _run(assembly: Assembly, history: History) -> dict[str, Any]:
    config, source = assembly.config, assembly.source
    speeds = [row["cells_per_s"] for row in history.history]
    return {
        "dir": config.logging.run_dir,
        "data": config.data.path,
        "problem": assembly.diagnosis.problem.kind,
        "seed": config.optim.seed,
        "n_cells": source.n_cells,
        "modalities": {
            m: {"cells": int(source.has[m].sum()), "features": len(source.features[m])}
            for m in source.modalities
        },
        "epochs": history.epochs,
        "stopped": history.reason,
        "best_epoch": history.best_epoch,
        "seconds": round(sum(row["seconds"] for row in history.history), 3),
        "cells_per_s": round(float(np.median(speeds)), 1) if speeds else None,
    }


def integration(assembly: Assembly, latent: Latent) -> dict[str, Any]:
    """Metrics of the embedding against labels and batches, where the data has them."""
    source, settings = assembly.source, assembly.config.evaluation
    whole = next((m for m in source.modalities if source.has[m].all()), None)
    batch = batches_of(assembly)
    return embedding_metrics(
        latent.z_bio.numpy(),
        labels=labels_of(assembly),
        batch=batch,
        max_cells=settings.max_cells,
        seed=assembly.config.optim.seed,
        before=None if whole is None or batch is None else _before(assembly, whole),
    )


def _before(assembly: Assembly, modality: str) -> np.ndarray:
    """Principal components of the features of as many cells as are scored; NaN for the others."""
    source, settings = assembly.source, assembly.config.evaluation
    rng = np.random.default_rng(derive(assembly.config.optim.seed, "before"))
    cells = np.sort(rng.permutation(source.n_cells)[: settings.max_cells])
    scores = views_of(source, cells, [modality])[modality].scores
    before = np.full((source.n_cells, scores.shape[1]), np.nan)
    before[cells] = scores
    return before


def named(assembly: Assembly, latent: Latent) -> dict[str, float]:
    """Numbers of the metrics that the configuration names (``evaluation.metrics``)."""
    source, seed = assembly.source, assembly.config.optim.seed
    metrics = build_metrics(assembly.config.evaluation)
    rng = np.random.default_rng(derive(seed, "metrics"))
    cells = np.sort(rng.permutation(source.n_cells)[: assembly.config.evaluation.max_cells])
    labels, batches = labels_of(assembly), batches_of(assembly)
    inputs = {
        "z_bio": latent.z_bio.numpy()[cells],
        "labels": None if labels is None else labels[cells],
        "batches": None if batches is None else batches[cells],
        "modalities": patterns_of(assembly)[cells],
        "obs": source.obs.iloc[cells],
        "seed": seed,
    }
    if any("views" in metric.inputs() for metric in metrics.values()):
        place = np.full(source.n_cells, -1)
        place[cells] = np.arange(len(cells))
        inputs["views"] = {m: view.at(place[view.cells]) for m, view in views_of(source, cells).items()}
    return measured(metrics, inputs)


def alignment(assembly: Assembly, history: History) -> dict[str, Any]:
    """Contents of ``alignment_metrics.json``, measured on training cells."""
    objective, config = assembly.objective, assembly.config
    rng = np.random.default_rng(derive(config.optim.seed, "alignment"))
    cells = np.sort(rng.permutation(assembly.split.train)[:ALIGNED])
    batch = assembly.loader(cells).batch(Draw(cells, cells[:0]))
    return alignment_metrics(objective, batch, history.history, assembly.groups)


def bridging(assembly: Assembly) -> dict[str, Any] | None:
    """Contents of ``bridge_metrics.json``: the last edges, and how they changed; ``None`` without edges."""
    structure, source = assembly.objective.structure, assembly.source
    if structure is None or structure.edges is None:
        return None
    train = assembly.split.train
    found = bridge_metrics(
        structure.edges,
        modalities={m: train[source.has[m][train]] for m in source.modalities},
        groups={name: names_of(assembly, name) for name in assembly.groups},
        labels=labels_of(assembly),
    )
    return {"provider": assembly.config.bridge.provider, **found, "refreshes": structure.history}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run depends on."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"remadom": remadom.__version__, "python": platform.python_version(), **found}

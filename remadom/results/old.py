"""What is made of a trained run: embeddings, metrics, figures, the report."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import remadom
from remadom.config import plan
from remadom.config.build import Assembly
from remadom.config.load import to_yaml
from remadom.core.vae import MosaicVAE
from remadom.data.loader import Loader
from remadom.data.modality import modality_named
from remadom.data.sampler import Draw
from remadom.data.source import Source
from remadom.eval.alignment import alignment_metrics
from remadom.eval.bridging import Side, bridge_metrics, draw_bridge_edges, drawn_edges
from remadom.eval.figures import draw_embedding, draw_losses
from remadom.eval.layout import plane
from remadom.eval.metrics import embedding_metrics, imputation_metrics
from remadom.eval.report import Figure, Report, Table, render_report
from remadom.train.callbacks import History
from remadom.types import Latent
from remadom.utils.outputs import REPORT, RunDir
from remadom.utils.seed import derive

ALIGNED = 2000
"""Cells on which the alignment terms are measured after training."""

PACKAGES = ("torch", "numpy", "scipy", "pandas", "anndata", "mudata", "scikit-learn")


@torch.inference_mode()
def predict(model: MosaicVAE, loader: Loader, modality: str) -> np.ndarray:
    """Expected values of one modality for the loader's cells, cell x feature, measured or not."""
    model.eval()
    device, decoder = next(model.parameters()).device, model.decoder(modality)
    parts = []
    for batch in loader:
        moved = batch.to(device)
        labels = moved.groups.get(model.batch_group)
        params = decoder(model.embed(moved).z_bio, moved.library.get(modality), labels)
        parts.append(decoder.mean(params).cpu().numpy())
    return np.concatenate(parts)


def embedding_arrays(names: Any, latent: Latent) -> dict[str, np.ndarray]:
    """Arrays of ``embeddings.npz``."""
    arrays = {key: getattr(latent, key).numpy() for key in ("z_bio", "mu", "logvar")}
    return {**arrays, "obs_names": np.asarray(names, dtype=np.str_)}


def obs_arrays(assembly: Assembly) -> dict[str, np.ndarray]:
    """Arrays of ``obs_arrays.npz``: groups, time, labels, the split and the presence of each modality."""
    source, key = assembly.source, assembly.config.evaluation.label_key
    split = np.full(source.n_cells, "none", dtype="<U5")
    for name in ("train", "val", "test"):
        split[getattr(assembly.split, name)] = name
    arrays: dict[str, Any] = {"obs_names": np.asarray(source.obs_names, dtype=np.str_), "split": split}
    arrays |= {name: np.asarray(names)[codes] for name, (codes, names) in assembly.groups.items()}
    arrays |= {f"has_{m}": source.has[m] for m in source.modalities}
    if assembly.time is not None:
        arrays["time"] = assembly.time
    if key in source.obs:
        arrays["label"] = source.obs[key].to_numpy()
    return arrays


def measure(assembly: Assembly, latent: Latent, history: History) -> dict[str, Any]:
    """Contents of ``metrics.final.json``."""
    config, source = assembly.config, assembly.source
    last = history.history[-1] if history.history else {}
    best = next((row for row in history.history if row["epoch"] == history.best_epoch), last)
    return {
        "run": {
            "dir": config.logging.run_dir,
            "data": config.data.path,
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
            "cells_per_s": round(float(np.median([row["cells_per_s"] for row in history.history])), 1)
            if history.history
            else None,
        },
        "train": best.get("train", {}),
        "val": best.get("val", {}),
        "evaluation": {
            "integration": integration(assembly, latent),
            "imputation": held_out_imputation(assembly),
        },
    }


def integration(assembly: Assembly, latent: Latent) -> dict[str, Any]:
    """Metrics of the embedding against labels and batches, where the data has them."""
    settings, source = assembly.config.evaluation, assembly.source
    codes, names = assembly.groups["batch"]
    labels = source.obs[settings.label_key].to_numpy() if settings.label_key in source.obs else None
    return embedding_metrics(
        latent.z_bio.numpy(),
        labels=labels,
        batch=np.asarray(names)[codes] if len(names) > 1 else None,
        max_cells=settings.max_cells,
        seed=assembly.config.optim.seed,
    )


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
    key = assembly.config.evaluation.label_key
    train = assembly.split.train
    found = bridge_metrics(
        structure.edges,
        modalities={m: train[source.has[m][train]] for m in source.modalities},
        groups={name: np.asarray(names)[codes] for name, (codes, names) in assembly.groups.items()},
        labels=source.obs[key].to_numpy() if key in source.obs else None,
    )
    return {"provider": assembly.config.bridge.provider, **found, "refreshes": structure.history}


def held_out_imputation(assembly: Assembly) -> dict[str, Any]:
    """Predicted against true values of the modalities that were held out, beside the mean of the training cells."""
    scores = {}
    for modality in assembly.measured.modalities:
        hidden = assembly.measured.has[modality] & ~assembly.source.has[modality]
        cells = np.flatnonzero(hidden)[: assembly.config.evaluation.max_cells]
        train = assembly.split.train[assembly.source.has[modality][assembly.split.train]]
        if len(cells) == 0 or len(train) == 0 or modality not in assembly.model.decoders:
            continue
        truth = assembly.measured.rows(modality, cells).toarray()
        mean = np.asarray(assembly.source.rows(modality, train).mean(axis=0)).ravel()
        predicted = predict(assembly.model, assembly.loader(cells), modality)
        scores[modality] = imputation_metrics(predicted, truth, mean)
    return scores


def draw(assembly: Assembly, latent: Latent, history: History, out: RunDir) -> list[Figure]:
    """Write the figures of a run and say what each shows."""
    settings, source = assembly.config.evaluation, assembly.source
    rng = np.random.default_rng(derive(assembly.config.optim.seed, "figures"))
    cells = np.sort(rng.permutation(source.n_cells)[: settings.max_cells])
    columns: dict[str, np.ndarray] = {"modalities": patterns(source)[cells]}
    for name, (codes, names) in assembly.groups.items():
        if len(names) > 1:
            columns[name] = np.asarray(names)[codes][cells]
    if settings.label_key in source.obs:
        columns[settings.label_key] = source.obs[settings.label_key].to_numpy()[cells]
    xy, method = plane(latent.z_bio.numpy()[cells], seed=assembly.config.optim.seed)
    losses, embedding = out.figures / "losses.png", out.figures / "embedding.png"
    draw_losses(history.history, losses)
    draw_embedding(xy, columns, embedding, method)
    figures = [
        Figure("Embedding", embedding, f"{len(cells):,} cells, {method} of the shared latent space."),
        Figure("Training", losses, "Negative ELBO and its terms, nats per cell."),
    ]
    structure = assembly.objective.structure
    if structure is not None and structure.edges is not None:
        key = settings.label_key
        drawn = drawn_edges(structure.edges.among(cells), seed=assembly.config.optim.seed)
        bridge = out.figures / "bridge_edges.png"
        draw_bridge_edges(
            {"shared latent space": Side(cells, xy)},
            drawn,
            bridge,
            labels=source.obs[key].to_numpy() if key in source.obs else None,
            label_name=key,
            layout_name=method,
        )
        words = f"{len(drawn):,} of {len(structure.edges):,} edges of the bridge {assembly.config.bridge.provider}."
        figures.append(Figure("Bridge", bridge, words))
    return figures


def patterns(source: Source) -> np.ndarray:
    """Which modalities each cell has, in words."""
    codes, names = source.patterns()
    titled = [
        " + ".join(modality_named(m).title for m in name.split("+")) if name != "none" else name
        for name in names
    ]
    words: np.ndarray = np.array(titled)[codes]
    return words


def write_report(
    assembly: Assembly,
    history: History,
    metrics: Mapping[str, Any],
    figures: list[Figure],
    out: RunDir,
    *,
    aligned: Mapping[str, Any] | None = None,
    bridged: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``report.html``; with what the alignment terms and the bridge did, where there are any."""
    path = out / REPORT
    integration_rows = [[name, value] for name, value in metrics["evaluation"]["integration"].items()]
    tables = [
        Table(
            "Cells",
            ["modalities", "missing", "cells"],
            [list(row) for row in plan.pattern_table(assembly.source)],
        ),
        Table(
            "Settings chosen for this data",
            ["setting", "value", "why"],
            [[c.key, json.dumps(c.value), c.reason] for c in assembly.choices],
        ),
        Table("Embedding", ["metric", "value"], integration_rows),
        Table(
            "Alignment",
            ["term", "weight", "first epoch", "last epoch", "after training", "gradient beside the ELBO's"],
            [
                [
                    name,
                    s["weight"],
                    *(s[at].get("loss") for at in ("first_epoch", "last_epoch", "final")),
                    s["last_epoch"].get("grad_norm"),
                ]
                for name, s in (aligned or {}).items()
            ],
        ),
        Table("Bridge", ["measure", "value"], [[k, v] for k, v in (bridged or {}).items() if _is_plain(v)]),
        *(
            Table(
                f"Held-out {modality_named(m).title}",
                ["metric", "value"],
                [[k, v] for k, v in scores.items()],
            )
            for m, scores in metrics["evaluation"]["imputation"].items()
        ),
    ]
    name = Path(assembly.config.data.path or "data").name
    render_report(
        Report(
            title=f"remadom: {name}",
            verdict_lines=[f"{history.reason}." if history.reason else "", *headline(metrics)],
            tables=[table for table in tables if table.rows],
            figures=figures,
            config_text=to_yaml(assembly.config),
            notes=assembly.notes,
            versions=versions(),
        ),
        path,
    )
    return path


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """The main figures of a run in sentences."""
    scores = metrics["evaluation"]["integration"]
    lines = []
    if "knn_purity" in scores:
        lines.append(
            f"{scores['knn_purity']:.1%} of a cell's 15 nearest cells share its label "
            f"(chance: {scores['knn_purity_chance']:.1%})."
        )
    if "ilisi" in scores:
        ilisi = scores["ilisi"]
        words = "lie apart" if ilisi < 0.1 else "mix in part" if ilisi < 0.4 else "mix"
        lines.append(
            f"The batches {words}: iLISI {ilisi:.2f} (0: no cell has neighbors of another batch, 1: even)."
        )
    for modality, score in metrics["evaluation"]["imputation"].items():
        lines.append(
            f"Held-out {modality_named(modality).title}: RMSE {score['rmse']:.3f} on log counts "
            f"(training mean: {score['rmse_mean_baseline']:.3f}), Pearson {score['pearson']:.3f}."
        )
    return lines


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run depends on."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"remadom": remadom.__version__, "python": platform.python_version(), **found}

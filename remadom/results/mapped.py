"""Write what came of mapping new cells onto a reference: embeddings, labels, features, figures, report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from remadom.adapters.labels import UNKNOWN, Transfer
from remadom.adapters.placing import Placed
from remadom.config.query import Query
from remadom.config.reference import Reference
from remadom.eval.confidence import label_scores
from remadom.eval.figures import draw_confidence, draw_confusion, draw_embedding
from remadom.eval.layout import plane
from remadom.eval.report import FIGURES
from remadom.eval.report.mapping import write_mapping_report
from remadom.results.arrays import embedding_arrays
from remadom.results.drawing import Drawn
from remadom.train.coordinates import in_coordinates
from remadom.types import Latent
from remadom.utils.files import write_text
from remadom.utils.outputs import EMBEDDINGS, JOINT, LABELS, MAPPING, MATCHES, RunDir, write_arrays
from remadom.utils.seed import derive

REFERENCE, QUERY = "reference", "query"


def level_scores(found: Transfer, truth: pd.Series | None, known: np.ndarray) -> dict[str, Any]:
    """Labels of one level in numbers; scored where the query says its own labels under the same name."""
    names, counts = np.unique(found.label.astype(str), return_counts=True)
    scores: dict[str, Any] = {
        "cells": dict(zip(names.tolist(), counts.tolist(), strict=True)),
        "confidence": float(found.confidence.mean()) if len(found.confidence) else None,
        "second_opinion_agrees": float((found.nearest == found.mixture).mean())
        if len(found.nearest)
        else None,
    }
    if truth is None:
        return scores
    told = truth.to_numpy(dtype=object)
    unknown = found.label == UNKNOWN
    return scores | label_scores(
        found.nearest, found.confidence, unknown, found.familiar, told, known.tolist()
    )


def record_mapping(
    folder: RunDir,
    reference: Reference,
    query: Query,
    latent: Latent,
    placed: Placed,
    metrics: Mapping[str, Any],
) -> None:
    """Write the outputs of a mapping into a folder.

    Parameters
    ----------
    folder
        The folder; what an earlier mapping left of the same names is replaced.
    reference, query
        What was mapped onto what.
    latent
        Of the new cells.
    placed
        Their labels and distances.
    metrics
        Contents of ``mapping.json``.
    """
    source, trained, cells = query.source, query.trained, reference.cells
    write_arrays(folder / EMBEDDINGS, embedding_arrays(source.obs_names, latent))
    model = reference.trained.model
    known = torch.from_numpy(cells.seen_by(model, tuple(cells.experts)))
    z = torch.cat([in_coordinates(model, known), latent.z_bio]).numpy()
    codes, names = source.codes(trained.config.data.batch_key, required=False)
    batch = np.concatenate([cells.batch, np.asarray(names, dtype=object)[codes]])
    of = np.repeat([REFERENCE, QUERY], [len(cells), source.n_cells])
    levels = {
        level: np.concatenate([cells.labels[level], found.label]) for level, found in placed.labels.items()
    }
    write_arrays(
        folder / JOINT,
        {
            "z_bio": z,
            "obs_names": np.concatenate([cells.names, source.obs_names.to_numpy(dtype=object)]).astype(
                np.str_
            ),
            "of": of,
            "batch": batch,
            **{f"label_{level}": values for level, values in levels.items()},
        },
    )
    write_text(folder / LABELS, label_table(source.obs_names, placed).to_csv(index=False))
    tables = [match.table() for match in query.matches.values()]
    write_text(folder / MATCHES, pd.concat(tables).map(guarded).to_csv(index=False))
    folder.figures.mkdir(exist_ok=True)
    drawn = list(_figures(z, of, batch, levels, placed, query, metrics, folder.figures))
    folder.write_json(f"{folder.figures.name}/{FIGURES}", [figure._asdict() for figure in drawn])
    folder.write_json(MAPPING, metrics)
    write_mapping_report(folder.path)


def label_table(names: pd.Index, placed: Placed) -> pd.DataFrame:
    """Labels of each cell, with their confidence, and how far it is from the reference."""
    columns: dict[str, Any] = {"obs_name": names.to_numpy(dtype=object), "familiar": placed.familiar}
    for level, found in placed.labels.items():
        columns |= {
            level: found.label,
            f"{level}_confidence": found.confidence,
            f"{level}_nearest": found.nearest,
            f"{level}_mixture": found.mixture,
            f"{level}_mixture_confidence": found.mixture_confidence,
            f"{level}_familiar": found.familiar,
        }
    return pd.DataFrame({name: pd.Series(values).map(guarded) for name, values in columns.items()})


def guarded(value: Any) -> Any:
    """A value for a table: text that a spreadsheet would read as a formula begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t", "\r") else value


def _figures(
    z: np.ndarray,
    of: np.ndarray,
    batch: np.ndarray,
    levels: Mapping[str, np.ndarray],
    placed: Placed,
    query: Query,
    metrics: Mapping[str, Any],
    folder: Path,
) -> Iterator[Drawn]:
    settings, seed = query.trained.config.evaluation, query.trained.config.optim.seed
    rng = np.random.default_rng(derive(seed, "figures"))
    half = [np.flatnonzero(of == part) for part in (REFERENCE, QUERY)]
    drawn = np.sort(np.concatenate([rng.permutation(part)[: settings.max_cells] for part in half]))
    xy, method = plane(z[drawn], settings.layout, seed=seed)
    unlike = np.full(len(of), None, dtype=object)
    unlike[of == QUERY] = np.where(
        placed.familiar < placed.unknown, "unlike the reference", "like the reference"
    )
    columns = {"cells": of[drawn], "batch": batch[drawn], "query": unlike[drawn]}
    for level, values in levels.items():
        columns[level] = np.where(values[drawn] == "", None, values[drawn])
    draw_embedding(xy, columns, folder / "joint_embedding.png", method)
    words = f"{len(drawn):,} cells, {method} of the latent space of the reference."
    yield Drawn("Reference and query", "joint_embedding.png", words, "embedding")
    for number, (level, found) in enumerate(placed.labels.items()):
        scores = metrics["labels"][level]
        if "calibration" not in scores:
            continue
        truth = query.source.obs[level].to_numpy(dtype=object)
        file = f"confusion_{number}.png"
        draw_confusion(truth, found.label, folder / file, title=f"{level}, true and transferred")
        yield Drawn(
            f"Labels: {level}", file, "Share of the cells of each true label by transferred label.", level
        )
        file = f"confidence_{number}.png"
        draw_confidence(scores["calibration"], folder / file, title=f"confidence of {level}")
        yield Drawn(f"Confidence: {level}", file, "Share of right labels by confidence.", level)

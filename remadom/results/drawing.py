"""The figures of a run, and the list of them that its report reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from remadom.config.build import Assembly
from remadom.data.modality import modality_named
from remadom.data.source import Source
from remadom.eval.bridging import Side, draw_bridge_edges, drawn_edges
from remadom.eval.figures import (
    Intervals,
    draw_calibration,
    draw_confusion,
    draw_degrees,
    draw_embedding,
    draw_imputation,
    draw_losses,
    draw_mosaic,
    draw_scores,
)
from remadom.eval.layout import plane
from remadom.eval.report import FIGURES
from remadom.results.arrays import labels_of, names_of
from remadom.results.imputation import Predicted
from remadom.results.intervals import LEVEL
from remadom.results.measures import Measured
from remadom.train.callbacks import History
from remadom.types import Latent
from remadom.utils.outputs import RunDir
from remadom.utils.seed import derive


class Drawn(NamedTuple):
    """An entry of ``figures.json``: a figure, and the part of the report that it belongs to."""

    title: str
    file: str
    caption: str
    section: str


def draw(assembly: Assembly, latent: Latent, history: History, measured: Measured, out: RunDir) -> None:
    """Write the figures of a run and ``figures/figures.json``."""
    figures = [
        *_of_data(assembly, out.figures),
        *_of_embedding(assembly, latent, out.figures),
        *_of_imputation(assembly, measured.predicted, out.figures),
        *_of_transfer(measured, out.figures),
        *_of_training(history, out.figures),
    ]
    out.write_json(f"{out.figures.name}/{FIGURES}", [drawn._asdict() for drawn in figures])


def _of_data(assembly: Assembly, folder: Path) -> Iterator[Drawn]:
    source, batch = assembly.source, names_of(assembly, "batch")
    cohorts, code = np.unique(batch, return_inverse=True)
    counts = np.stack(
        [np.bincount(code[source.has[m]], minlength=len(cohorts)) for m in source.modalities], 1
    )
    titles = [modality_named(m).title for m in source.modalities]
    draw_mosaic(counts, [str(name) for name in cohorts], titles, folder / "mosaic.png")
    yield Drawn("What was measured", "mosaic.png", "Cells of each batch by modality.", "data")


def _of_embedding(assembly: Assembly, latent: Latent, folder: Path) -> Iterator[Drawn]:
    settings, source, seed = assembly.config.evaluation, assembly.source, assembly.config.optim.seed
    rng = np.random.default_rng(derive(seed, "figures"))
    cells = np.sort(rng.permutation(source.n_cells)[: settings.max_cells])
    columns: dict[str, np.ndarray] = {"modalities": patterns(source)[cells]}
    for name, (_, names) in assembly.groups.items():
        if len(names) > 1 and name != "modality":
            columns[name] = names_of(assembly, name)[cells]
    labels = labels_of(assembly)
    if labels is not None:
        columns[settings.label_key] = labels[cells]
    xy, method = plane(latent.z_bio.numpy()[cells], settings.layout, seed=seed)
    draw_embedding(xy, columns, folder / "embedding.png", method)
    caption = f"{len(cells):,} cells, {method} of the shared latent space."
    yield Drawn("Embedding", "embedding.png", caption, "integration")
    structure = assembly.objective.structure
    if structure is None or structure.edges is None:
        return
    edges = structure.edges
    drawn = drawn_edges(edges.among(cells), seed=seed)
    draw_bridge_edges(
        {"shared latent space": Side(cells, xy)},
        drawn,
        folder / "bridge_edges.png",
        labels=labels,
        label_name=settings.label_key,
        layout_name=method,
    )
    words = f"{len(drawn):,} of {len(edges):,} edges of the bridge {assembly.config.bridge.provider}."
    yield Drawn("Edges", "bridge_edges.png", words, "bridge")
    ends = np.concatenate([edges.src.cpu().numpy(), edges.dst.cpu().numpy()])
    degree = np.bincount(ends, minlength=source.n_cells)
    train = assembly.split.train
    by_modality = {
        modality_named(m).title: degree[train[source.has[m][train]]]
        for m in source.modalities
        if source.has[m][train].any()
    }
    draw_degrees(by_modality, folder / "bridge_degrees.png")
    yield Drawn("Edges of a cell", "bridge_degrees.png", "Training cells of each modality.", "bridge")


def _of_imputation(assembly: Assembly, predicted: Mapping[str, Predicted], folder: Path) -> Iterator[Drawn]:
    for modality, values in predicted.items():
        title, scores = modality_named(modality).title, values.scores
        if "pearson" in scores:
            file = f"imputation_{modality}.png"
            names = [str(name) for name in assembly.source.features[modality][values.features]]
            draw_imputation(
                values.scale.to(values.truth),
                values.scale.to(values.expected),
                folder / file,
                features=names,
                title=title,
                unit=values.scale.words,
            )
            caption = f"Predicted against measured, {scores['n_cells']:,} {scores['held_out']}."
            yield Drawn(f"{title}: predicted values", file, caption, modality)
        file, score = f"baselines_{modality}.png", "pearson" if "pearson" in scores else "auroc_cell"
        if score in scores:
            bars = {"remadom": scores[score]} | {
                name: other.get(score) for name, other in scores["baselines"].items()
            }
            draw_scores({title: bars}, folder / file, name=score)
            caption = "Beside methods that were fitted on the same training cells."
            yield Drawn(f"{title}: imputation beside its baselines", file, caption, "imputation")
        file = f"calibration_{modality}.png"
        ended = np.flatnonzero(np.isfinite(np.stack(values.intervals)).all(0))
        if not len(ended):
            continue
        rng = np.random.default_rng(derive(assembly.config.optim.seed, "intervals"))
        some = rng.choice(ended, min(2000, len(ended)), replace=False)
        truth, expected, lower, upper = (values.scale.to(part).ravel()[some] for part in values.intervals)
        intervals = Intervals(truth, expected, lower, upper, LEVEL)
        levels = sorted(values.coverages)
        coverages = [values.coverages[level] for level in levels]
        unit = values.scale.words
        draw_calibration(levels, coverages, folder / file, intervals=intervals, title=title, unit=unit)
        caption = "Share of held-out values inside of their intervals."
        yield Drawn(f"{title}: intervals", file, caption, modality)


def _of_transfer(measured: Measured, folder: Path) -> Iterator[Drawn]:
    for scores in measured.metrics["evaluation"]["modalities"].values():
        for name, table in scores.items():
            if not name.startswith("confusion_"):
                continue
            a, b = name.removeprefix("confusion_").split("_to_")
            true = [label for label, given in table.items() for count in given.values() for _ in range(count)]
            guess = [g for given in table.values() for g, count in given.items() for _ in range(count)]
            file = f"{name}.png"
            words = f"{modality_named(a).title} to {modality_named(b).title}"
            draw_confusion(true, guess, folder / file, title=words)
            yield Drawn(f"Labels from {words}", file, "Cells by their label and by the one given.", b)


def _of_training(history: History, folder: Path) -> Iterator[Drawn]:
    draw_losses(history.history, folder / "losses.png")
    yield Drawn("Training", "losses.png", "Negative ELBO and its terms, nats per cell.", "training")


def patterns(source: Source) -> np.ndarray:
    """Which modalities each cell has, in words."""
    codes, names = source.patterns()
    titled = [
        " + ".join(modality_named(m).title for m in name.split("+")) if name != "none" else name
        for name in names
    ]
    words: np.ndarray = np.array(titled)[codes]
    return words

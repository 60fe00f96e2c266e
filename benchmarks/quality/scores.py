"""One run of remadom on one data set, scored as the peers were."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.linear import embeddings
from remadom import run
from remadom.adapters.cells import NOTHING
from remadom.adapters.voters import Spaces, Voters
from remadom.config.build import Assembly
from remadom.config.load import gather, overlay
from remadom.config.trained import Trained
from remadom.data.source import Source
from remadom.eval.confidence import expected_calibration_error
from remadom.results.agreement import embedded_from
from remadom.results.imputation import asked, predicted
from remadom.results.labeled import label_cells
from remadom.utils.machine import peak_mb
from remadom.utils.outputs import EMBEDDINGS

Scores = dict[str, list[float]]
MOST = 5000


@dataclass(frozen=True)
class Data:
    """A data set: its file, the columns by which its embedding is scored, between which batches labels go, and batches
    whose hidden values are also scored alone.
    """

    file: str
    labels: Mapping[str, str]
    transfer: Mapping[str, tuple[str, str]]
    alone: Mapping[str, str] = field(default_factory=dict)


DATA = {
    "midas": Data(
        "midas_pbmc_mosaic.h5mu",
        {"": "cell_type"},
        {"labels RNA to ADT": ("p1_0", "p2_0"), "labels ADT to RNA": ("p2_0", "p1_0")},
    ),
    "pbmc10k5k": Data(
        "pbmc10k5k_cite_totalvi.h5mu", {"10k, ": "cell_type", "both, derived, ": "cell_type_pred"}, {}
    ),
    "snareseq": Data("snareseq_mouse_cortex.h5mu", {"": "cell_type"}, {}),
    "multistudy": Data(
        "pbmc_multistudy_cite_mosaic.h5mu",
        {"truth, ": "cell_type", "derived, ": "cell_type_pred"},
        {"labels to TEA, ADT": ("", "teaseq_pbmc_test")},
        {"REAP-seq, ": "reapseq_pbmc_pbmc3"},
    ),
}


def of_run(
    name: str, file: Path, hidden: Mapping[str, Any], seed: int, folder: Path, changes: list[str]
) -> tuple[dict[str, float], Assembly]:
    """Train with the defaults, and score; with what was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    raw: dict[str, Any] = {
        "data": {"path": str(file)},
        "optim": {"seed": seed},
        "logging": {"run_dir": str(folder)},
        "evaluation": {"figures": False, "holdout": {}},
    }
    for modality, cells in hidden["hidden"].items():
        listed = folder / f"hidden_{modality}.txt"
        listed.write_text("\n".join(cells))
        raw["evaluation"]["holdout"][modality] = {"file": str(listed)}
    forget_peak()
    done = run.train(overlay(raw, gather(None, changes)), overwrite=True)
    assembly = done.assembly
    found = {"seconds, training": done.metrics["run"]["seconds"], "peak memory, MB": peak_mb()}
    verdict = done.metrics["evaluation"].get("trust", {}).get("verdict")
    if verdict is not None:
        found[f"verdict: {verdict}"] = 1.0  # the number of runs says how often
    z = np.load(done.dir / EMBEDDINGS)["z_bio"]
    found |= of_embedding(DATA[name], assembly.source, batch_names(assembly), z)
    found |= of_labels(DATA[name], assembly, folder)
    found |= of_hidden(assembly, hidden["hidden"], done.metrics, DATA[name].alone)
    return found, assembly


def forget_peak() -> None:
    """Let the peak memory of the process start anew (Linux)."""
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5")


def of_linear(name: str, assembly: Assembly) -> dict[str, dict[str, float]]:
    """Figures of the embeddings in closed form."""
    found = {}
    for method, compute in embeddings(assembly.source, batch_names(assembly)):
        began = time.perf_counter()
        z = compute()
        seconds = time.perf_counter() - began
        figures = of_embedding(DATA[name], assembly.source, batch_names(assembly), z)
        found[method] = figures | {"seconds, all": seconds}
    return found


def batch_names(assembly: Assembly) -> np.ndarray:
    """Name of the batch of each cell."""
    codes, names = assembly.groups["batch"]
    return np.asarray(names, dtype=object)[codes].astype(str)


def of_embedding(data: Data, source: Source, batch: np.ndarray, z: np.ndarray) -> dict[str, float]:
    """Figures of an embedding of a source's cells, NaN where a method has no place for a cell."""
    import quality  # of the peers' benchmark; its folder is on the path

    placed, found = np.isfinite(z).all(1), {}
    for prefix, column in data.labels.items():
        labels = source.obs[column].astype(object).to_numpy()
        told = np.flatnonzero(placed & are_told(labels))
        cells = told[drawn(source.obs_names[told])]
        scores = quality.embedding_metrics(z[cells], labels[cells].astype(str), batch[cells], kmeans=False)
        kept = ("nmi", "ari", "asw_label", "ilisi", "bio", "batch", "total")
        found |= {f"{prefix}{key}": scores[key] for key in kept if key in scores}
    for words, labels, others, ours in transfers(data, source, batch, placed):
        right, _ = quality.label_transfer(
            z[others], labels[others].astype(str), z[ours], labels[ours].astype(str)
        )
        found[words] = right
        names, codes = np.unique(labels[others].astype(str), return_inverse=True)
        spaces = Spaces(z, z, z)
        given = names[Voters.fit(spaces[others], codes, len(names), 0).probabilities(spaces[ours]).argmax(1)]
        found[f"{words}, by voters in it"] = float((given == labels[ours].astype(str)).mean())
    return found


def of_labels(data: Data, assembly: Assembly, folder: Path) -> dict[str, float]:
    """Share of right labels by ``remadom label``, and its calibration error, of the cells that get labels."""
    source, trained, found = assembly.source, Trained.load(folder), {}
    everywhere = np.ones(source.n_cells, dtype=bool)
    for words, labels, others, ours in transfers(data, source, batch_names(assembly), everywhere):
        known = np.where(others, labels, NOTHING).astype(object)
        given = label_cells(trained, source, known)
        right = given.nearest[ours] == labels[ours]
        found[f"{words}, by remadom label"] = float(right.mean())
        found[f"{words}, its calibration error"] = expected_calibration_error(given.confidence[ours], right)
    return found


def transfers(
    data: Data, source: Source, batch: np.ndarray, placed: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each transfer its name, the labels, and the cells with a place that give and that get them."""
    labels = source.obs[next(iter(data.labels.values()))].astype(object).to_numpy()
    told = placed & are_told(labels)
    for words, (start, end) in data.transfer.items():
        ours = told & (batch == end)
        others = told & (batch == start if start else batch != end)
        if ours.any() and others.any():
            yield words, labels, others, ours


def are_told(labels: np.ndarray) -> np.ndarray:
    """Which cells have a label."""
    return np.array([isinstance(label, str) and label != "nan" for label in labels])


def of_hidden(
    assembly: Assembly,
    hidden: Mapping[str, list[str]],
    metrics: Mapping[str, Any],
    alone: Mapping[str, str],
) -> dict[str, float]:
    """Figures of the hidden values, from the run's own scores, and of the two halves of the hidden cells."""
    found = {}
    for modality, names in hidden.items():
        scores = metrics["evaluation"]["imputation"].get(modality, {})
        found |= chosen(modality, scores)
        cells = assembly.measured.obs_names.get_indexer(names)
        cells = np.sort(cells[cells >= 0])
        for prefix, batch in alone.items():
            own = cells[batch_names(assembly)[cells] == batch]
            _, checked, words = asked(assembly, modality)
            scores = predicted(assembly, modality, own, checked, words).scores
            found |= {f"{prefix}{key}": value for key, value in chosen(modality, scores).items()}
        others = [
            m for m in assembly.measured.modalities if m != modality and assembly.measured.has[m][cells].all()
        ]
        for other in others:
            import quality

            known = cells[assembly.measured.has[modality][cells]][:2000]
            halves = [embedded_from(assembly, m, known) for m in (modality, other)]
            found[f"foscttm, hidden {modality}"] = quality.foscttm(*halves)
    return found


def chosen(modality: str, scores: Mapping[str, Any]) -> dict[str, float]:
    """The scores of hidden values that the targets name."""
    names = ("pearson", "rmse", "auroc_cell", "auroc_feature", "coverage_90")
    return {f"{modality} {name}": scores[name] for name in names if scores.get(name) is not None}


def of_baselines(name: str, folder: Path) -> dict[str, dict[str, float]]:
    """What simple methods make of the same hidden values, from the run's own scores."""
    found: dict[str, dict[str, float]] = {}
    imputed = json.loads((folder / "metrics.final.json").read_text())["evaluation"]["imputation"]
    for modality, scores in imputed.items():
        if str(scores["held_out"]).startswith("cells"):
            for method, theirs in {"decoder": scores["decoder"], **scores["baselines"]}.items():
                found.setdefault(method, {}).update(chosen(modality, theirs))
    return found


def drawn(names: Any) -> np.ndarray:
    """At most ``MOST`` cells, by a hash of their names."""
    order = np.argsort([hashlib.md5(str(name).encode()).hexdigest() for name in names], kind="stable")
    return np.sort(order[:MOST])

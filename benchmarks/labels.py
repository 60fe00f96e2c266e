"""Labels from some batches to others within one run: ten nearest cells in the embedding, and ``remadom label``.

Trains with the defaults, takes the labels of all batches but some away, gives them back and counts how many are right.
Tasks: each labeled batch by all others; each by one other, where there are at most five; of SNARE-seq, cells of which
genes or peaks were hidden. The expected calibration error is that of ``remadom label``.

    python -m benchmarks.labels --data ../shared/data [--only mosaic PBMC] [--seeds 0 1]
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from remadom import run
from remadom.adapters.cells import NOTHING, label_texts
from remadom.adapters.labels import UNKNOWN
from remadom.config.trained import Trained
from remadom.data.source import Source
from remadom.eval.confidence import expected_calibration_error
from remadom.eval.transfer import label_transfer
from remadom.results.labeled import label_cells
from remadom.train.embedding import embed_cells

ROW = "{:16s} {:44s} {:>6s} {:>8s} {:>14s} {:>6s} {:>8s}"
FEWEST = 50
"""Labeled cells of a batch that takes part."""
MOST = 5
"""Labeled batches that also label one another one by one."""


@dataclass(frozen=True)
class Data:
    """A data set: its file, its column of labels, and of how many cells a modality is hidden."""

    file: str
    column: str = "cell_type"
    hidden: dict[str, int] = field(default_factory=dict)


DATA = {
    "mosaic": Data("midas_pbmc_mosaic.h5mu"),
    "PBMC": Data("pbmc10k5k_cite_totalvi.h5mu", "cell_type_pred"),
    "studies": Data("pbmc_multistudy_cite_mosaic.h5mu"),
    "SNARE-seq": Data("snareseq_mouse_cortex.h5mu", hidden={"rna": 1000, "atac": 1000}),
}


def tasks(source: Source, truth: np.ndarray, *, hidden: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name of each task, the cells that keep their labels, and those that are asked for."""
    if hidden:
        for modality in source.modalities:
            yield f"cells without {modality} by the others", source.has[modality], ~source.has[modality]
        return
    codes, names = source.codes("batch", required=False)
    batches = [b for b in range(len(names)) if ((codes == b) & (truth != NOTHING)).sum() >= FEWEST]
    for b in batches:
        yield f"{names[b]} by all others", codes != b, codes == b
    for a in batches if 2 < len(batches) <= MOST else []:
        for b in batches:
            if a != b:
                yield f"{names[b]} by {names[a]}", codes == a, codes == b


def measure(name: str, folder: Path, path: Path, seed: int) -> None:
    """Train, and print a line a task."""
    hidden, rng = {}, np.random.default_rng(0)
    if DATA[name].hidden:
        order = rng.permutation(Source.open(path).obs_names)
        for modality, n in DATA[name].hidden.items():
            (folder / modality).write_text("\n".join(order[:n]))
            hidden[modality], order = {"file": str(folder / modality)}, order[n:]
    raw: dict[str, Any] = {
        "data": {"path": str(path)},
        "optim": {"seed": seed},
        "logging": {"run_dir": str(folder / "run")},
        "evaluation": {"figures": False, "holdout": hidden},
    }
    source = run.train(raw).assembly.source
    trained = Trained.load(folder / "run")
    truth = label_texts(source.obs[DATA[name].column])
    z = embed_cells(trained.model, trained.loader(source)).z_bio.numpy()
    found = []
    for task, by, to in tasks(source, truth, hidden=bool(hidden)):
        told = np.where(by, truth, NOTHING).astype(object)
        labeled = np.flatnonzero(told != NOTHING)
        asked = np.flatnonzero(to & np.isin(truth, np.unique(truth[labeled])) & (truth != NOTHING))
        if len(asked) < FEWEST:
            continue
        nearest = label_transfer(z[labeled], truth[labeled], z[asked]) == truth[asked]
        given = label_cells(trained, source, told)
        right = given.nearest[asked] == truth[asked]
        error = expected_calibration_error(given.confidence[asked], right)
        unknown = float((given.label[asked] == UNKNOWN).mean())
        found.append([nearest.mean(), right.mean(), error, unknown])
        said = (f"{value:.3f}" for value in found[-1])
        print(ROW.format(name, task, str(len(asked)), *said), flush=True)
    print(ROW.format(name, "mean", "", *(f"{value:.3f}" for value in np.mean(found, axis=0))), flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    asked.add_argument("--only", nargs="+", choices=DATA, default=list(DATA))
    asked.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = asked.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(ROW.format("data", "task", "cells", "nearest", "remadom label", "ECE", "unknown"))
    for name in options.only:
        path = options.data / DATA[name].file
        if not path.exists():
            print(f"skipped: {path} is not there")
            continue
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                measure(name, Path(folder), path, seed)


if __name__ == "__main__":
    main()

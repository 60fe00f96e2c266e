"""Whether a cell type that one batch lacks keeps its place among the others: real data, of which it was taken out.

    python -m benchmarks.private_type [FILE] [--column cell_type_pred] [--batch pbmc5k] [--types B NK Mono] [--seeds 0]
        [--set KEY=VALUE ...]

For each type, its cells are left out of one batch, in all modalities, and remadom is trained with its defaults. Of the
cells of that type, which the batch lacks: `purity`, the share of their 30 nearest cells that are of the type, and
`strangers`, the share that are of the batch that lacks it, each of which is another type. `iLISI` of all other cells
says whether the batches mix where they should (0 apart, 1 mixed), `verdict` what the run says of itself. Beside it, of
the same cells: principal components of the genes, and Harmony of these where harmonypy is installed; `--set` changes
settings of remadom.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mudata as md
import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from benchmarks.quality.linear import embeddings
from benchmarks.quality.scores import batch_names
from remadom import run
from remadom.config.load import gather, overlay
from remadom.eval.metrics import embedding_metrics
from remadom.utils.outputs import EMBEDDINGS

FILE = Path(__file__).parents[2] / "shared" / "data" / "pbmc10k5k_cite_totalvi.h5mu"
NEIGHBORS = 30


def without(data: md.MuData, column: str, kind: str, batch: str) -> md.MuData:
    """The data less the cells of a type in a batch."""
    gone = {
        name
        for part in data.mod.values()
        if column in part.obs
        for name in part.obs_names[(part.obs[column] == kind) & (part.obs["batch"] == batch)]
    }
    return md.MuData({m: part[~part.obs_names.isin(gone)].copy() for m, part in data.mod.items()})


def row(method: str, kind: str, z: np.ndarray, kinds: np.ndarray, batches: np.ndarray, lacking: str) -> str:
    """Figures of an embedding, in words."""
    private = kinds == kind
    nearest = NearestNeighbors(n_neighbors=NEIGHBORS + 1).fit(z).kneighbors(z[private])[1][:, 1:]
    purity, strangers = (kinds[nearest] == kind).mean(), (batches[nearest] == lacking).mean()
    mixed = embedding_metrics(z[~private], batch=batches[~private])["ilisi"]
    return f"{method:14}{kind:10}{private.sum():>7,}{purity:>9.3f}{strangers:>11.3f}{float(mixed):>8.3f}  "


def main() -> None:
    """Print a row for each method, type and seed."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("file", type=Path, nargs="?", default=FILE)
    asked.add_argument("--column", default="cell_type_pred")
    asked.add_argument("--batch", default="pbmc5k")
    asked.add_argument("--types", nargs="*", default=["B", "NK", "Mono"])
    asked.add_argument("--seeds", type=int, nargs="*", default=[0])
    asked.add_argument("--set", nargs="*", default=[], dest="changes")
    args = asked.parse_args()
    if not args.file.exists():
        print(f"skipped: {args.file} is not there")
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    md.set_options(pull_on_update=False)
    data = md.read_h5mu(args.file)
    print(f"{'method':14}{'type':10}{'cells':>7}{'purity':>9}{'strangers':>11}{'iLISI':>8}  verdict")
    for kind in args.types:
        left = without(data, args.column, kind, args.batch)
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                raw: dict[str, Any] = {
                    "optim": {"seed": seed},
                    "logging": {"run_dir": folder},
                    "evaluation": {"figures": False},
                }
                done = run.train(overlay(raw, gather(None, args.changes)), data=left, overwrite=True)
                z = np.load(done.dir / EMBEDDINGS)["z_bio"]
            source, batches = done.assembly.source, batch_names(done.assembly)
            kinds = source.obs[args.column].astype(str).to_numpy()
            words = done.metrics["evaluation"]["trust"]["verdict"]
            print(row(f"remadom, {seed}", kind, z, kinds, batches, args.batch) + words, flush=True)
        for method, compute in embeddings(source, batches):
            if method in ("PCA", "harmonypy"):
                print(row(method, kind, compute(), kinds, batches, args.batch), flush=True)


if __name__ == "__main__":
    main()

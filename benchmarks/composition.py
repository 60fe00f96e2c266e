"""Labels between assays where batches hold cell types in other shares: real data, one batch of it sorted cells.

    python -m benchmarks.composition [FILE] [--scorer ../shared/bench] [--seeds 0 1 2]

Of the five PBMC studies: RNA of sorted cells (a third of them NK cells, which are 6 to 14 % of the others), RNA and
proteins of a CITE-seq run, proteins alone of a TEA-seq run. remadom with its defaults, with `mmd` of whole
distributions, and with `ot` of a limited reach; beside it, in closed form, a ridge bridge and a linear map of the
mosaic. `there`: accuracy of 10-NN labels from sorted cells to TEA-seq, `back` the other way; `total`, `bio` and `iLISI`
of all labeled cells, by the scorer of the peers' table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mudata as md
import numpy as np
import torch

from benchmarks.quality.linear import embeddings
from benchmarks.quality.scores import Data, batch_names, of_embedding
from remadom import run
from remadom.utils.outputs import EMBEDDINGS

SHARED = Path(__file__).parents[2] / "shared"
FILE = SHARED / "data" / "pbmc_multistudy_cite_mosaic.h5mu"
BATCHES = {"rna": ["pbmc10k", "sorted_ref"], "adt": ["pbmc10k", "teaseq_pbmc_test"]}
SORTED, PROTEINS = "sorted_ref", "teaseq_pbmc_test"
SCORED = Data("", {"": "cell_type"}, {"there": (SORTED, PROTEINS), "back": (PROTEINS, SORTED)})
FIGURES = ("there", "back", "total", "bio", "ilisi")
POSTERIOR = {"enabled": True, "params": {"weight": 0.1}}
SETTINGS: dict[str, dict[str, Any]] = {
    "remadom": {},
    "whole": {
        "alignment": {
            "mmd": {"enabled": True, "params": {"weight": 0.3, "reach": None}},
            "posterior": POSTERIOR,
        }
    },
    "ot": {
        "alignment": {
            "ot": {"enabled": True, "params": {"weight": 0.3, "reach": 0.5}},
            "posterior": POSTERIOR,
        }
    },
}


def main() -> None:
    """Print a row for each method and seed."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("file", type=Path, nargs="?", default=FILE)
    asked.add_argument("--scorer", type=Path, default=SHARED / "bench")
    asked.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    args = asked.parse_args()
    if not args.file.exists() or not (args.scorer / "quality.py").exists():
        print(f"skipped: {args.file} or {args.scorer / 'quality.py'} is not there")
        return
    sys.path.insert(0, str(args.scorer))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    md.set_options(pull_on_update=False)
    whole = md.read_h5mu(args.file)
    parts = {m: whole[m][whole[m].obs["batch"].isin(kept).to_numpy()].copy() for m, kept in BATCHES.items()}
    print(f"{'method':10}{'seed':>5}" + "".join(f"{name:>9}" for name in FIGURES) + "  verdict")
    for method, settings in SETTINGS.items():
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                raw: dict[str, Any] = {
                    "optim": {"seed": seed},
                    "logging": {"run_dir": folder},
                    "evaluation": {"figures": False, "holdout_key": "none"},
                    **settings,
                }
                done = run.train(raw, data=parts, overwrite=True)
                z = np.load(done.dir / EMBEDDINGS)["z_bio"]
            source, batch = done.assembly.source, batch_names(done.assembly)
            verdict = done.metrics["evaluation"]["trust"]["verdict"]
            print(
                f"{method:10}{seed:>5}{figures(of_embedding(SCORED, source, batch, z))}  {verdict}",
                flush=True,
            )
    for method, compute in embeddings(source, batch):
        print(f"{method:10}{'':5}{figures(of_embedding(SCORED, source, batch, compute()))}", flush=True)


def figures(scores: dict[str, float]) -> str:
    """The figures of an embedding, in columns."""
    return "".join(f"{scores[name]:>9.3f}" for name in FIGURES)


if __name__ == "__main__":
    main()

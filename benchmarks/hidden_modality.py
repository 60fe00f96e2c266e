"""How well a modality is predicted that cells lack, on real data, beside the mean, nearest neighbors and ridge.

    python -m benchmarks.hidden_modality [--data ../shared/data] [--only midas ...] [--modality rna] [--fraction 0.2]
        [--seeds 0] [--set KEY=VALUE ...]

Of the cells that have the modality and another, a fraction keeps it out of training (defaults of `remadom train FILE`).
Scores as in the run's own report, on log(1 + count): `pearson` and `spearman` of each feature over the cells, at the
depth at which the cells are predicted; `rmse` at their true depth. Of peaks: AUROC by cell and by peak.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.scores import DATA
from remadom import run
from remadom.config.load import gather, overlay

SHARED = Path(__file__).parents[2] / "shared" / "data"
SCORES = ("pearson", "spearman", "rmse", "auroc_cell", "auroc_feature")


def main() -> None:
    """Print a row for each data set, seed and method."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=SHARED)
    asked.add_argument("--only", nargs="*", default=list(DATA))
    asked.add_argument("--modality", default="rna")
    asked.add_argument("--fraction", type=float, default=0.2)
    asked.add_argument("--seeds", type=int, nargs="*", default=[0])
    asked.add_argument("--set", nargs="*", default=[], dest="changes")
    args = asked.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{'data':13}{'method':10}{'cells':>7}" + "".join(f"{name:>15}" for name in SCORES))
    for name in args.only:
        file = args.data / DATA[name].file
        if not file.exists():
            print(f"skipped: {file} is not there")
            continue
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                raw: dict[str, Any] = {
                    "data": {"path": str(file)},
                    "optim": {"seed": seed},
                    "logging": {"run_dir": folder},
                    "evaluation": {"figures": False, "holdout": {args.modality: {"fraction": args.fraction}}},
                }
                done = run.train(overlay(raw, gather(None, args.changes)), overwrite=True)
            found = done.metrics["evaluation"]["imputation"][args.modality]
            methods = {"remadom": found, "decoder": found["decoder"], **found["baselines"]}
            for method, scores in methods.items():
                figures = "".join(f"{scores[s]:>15.4f}" if s in scores else " " * 15 for s in SCORES)
                print(f"{name:13}{method:10}{found['n_cells']:>7,}{figures}", flush=True)


if __name__ == "__main__":
    main()

"""Do the intervals of imputed proteins hold in a batch that never had them, beside one batch that has?

    python -m benchmarks.unseen_batch [--data ../shared/data] [--seed 0]

Pairs of batches that both have RNA and proteins: the proteins of the second are hidden, all of them. Of its cells:
the share of values that 90 % intervals hold, with widths of the batch that has the proteins, and with those that assume
what batches shift (`remadom.results.intervals.SHIFT`); and how far the batch was shifted, as the root mean square over
the proteins of the log of what was measured over what was expected, at equal depth.
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

from remadom import run
from remadom.results import intervals
from remadom.results.imputation import asked, predicted

SHARED = Path(__file__).parents[2] / "shared"
STUDIES = "pbmc_multistudy_cite_mosaic.h5mu"
PAIRS = [
    ("midas_pbmc_mosaic.h5mu", "p3_0", "p4_0"),
    ("midas_pbmc_mosaic.h5mu", "p4_0", "p3_0"),
    ("pbmc10k5k_cite_totalvi.h5mu", "pbmc10k", "pbmc5k"),
    (STUDIES, "pbmc10k", "reapseq_pbmc_pbmc2"),
    (STUDIES, "reapseq_pbmc_pbmc2", "pbmc10k"),
    (STUDIES, "reapseq_pbmc_pbmc2", "reapseq_pbmc_pbmc3"),
    (STUDIES, "pbmc10k", "teaseq_pbmc_train"),
    (STUDIES, "teaseq_pbmc_train", "pbmc10k"),
    (STUDIES, "teaseq_pbmc_train", "reapseq_pbmc_pbmc2"),
    (STUDIES, "reapseq_pbmc_pbmc2", "teaseq_pbmc_train"),
]


def main() -> None:
    """Print a row for each pair, and their means."""
    asked_for = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked_for.add_argument("--data", type=Path, default=SHARED / "data")
    asked_for.add_argument("--seed", type=int, default=0)
    args = asked_for.parse_args()
    if not all((args.data / name).exists() for name, *_ in PAIRS):
        print(f"skipped: {', '.join(sorted({name for name, *_ in PAIRS}))} are not all in {args.data}")
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    md.set_options(pull_on_update=False)
    print(f"{'measured':20}{'hidden':20}{'cells':>7}{'without':>9}{'with':>7}{'shift':>7}")
    rows = []
    for name, measured, hidden in PAIRS:
        found = of_pair(args.data / name, measured, hidden, args.seed)
        rows.append(found[1:])
        print(
            f"{measured:20}{hidden:20}{found[0]:>7}{found[1]:>9.3f}{found[2]:>7.3f}{found[3]:>7.2f}",
            flush=True,
        )
    without, held, shift = np.array(rows).T
    means = f"{without.mean():>9.3f}{held.mean():>7.3f}{np.sqrt((shift**2).mean()):>7.2f}"
    print(f"{'mean (shift: root mean square)':47}{means}")


def of_pair(file: Path, measured: str, hidden: str, seed: int) -> tuple[int, float, float, float]:
    """Hidden cells that are scored, both coverages, and the shift."""
    whole = md.read_h5mu(file)
    parts = {
        m: whole[m][whole[m].obs["batch"].isin([measured, hidden]).to_numpy()].copy() for m in ("rna", "adt")
    }
    with tempfile.TemporaryDirectory() as folder:
        raw: dict[str, Any] = {
            "optim": {"seed": seed},
            "logging": {"run_dir": folder},
            "evaluation": {
                "figures": False,
                "holdout_key": "none",
                "holdout": {"adt": {"batches": [hidden]}},
            },
        }
        assembly = run.train(raw, data=parts, overwrite=True).assembly
        question = asked(assembly, "adt")
        with_shift = predicted(assembly, "adt", *question)
        usual, intervals.SHIFT = intervals.SHIFT, 0.0
        without = predicted(assembly, "adt", *question)
        intervals.SHIFT = usual
    truth, expected = with_shift.intervals[:2]
    expected = expected * truth.sum(1, keepdims=True) / expected.sum(1, keepdims=True)
    told = truth.sum(0) > 0
    shift = np.log(truth.sum(0)[told] / expected.sum(0)[told])
    scored = without.scores["coverage_90"], with_shift.scores["coverage_90"]
    return len(with_shift.cells), *scored, float(np.sqrt((shift**2).mean()))


if __name__ == "__main__":
    main()

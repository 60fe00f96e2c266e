"""Do the intervals of imputed proteins hold in a batch that never had them, beside one or two batches that have?

    python -m benchmarks.unseen_batch [--data ../shared/data] [--seed 0]

Batches that have RNA and proteins: the proteins of the last one are hidden, all of them. Of its cells: the share of
values that 90 % intervals hold, with widths of the batches that have the proteins (`here`); with those of cells
predicted as if their batch had none (`told`; of two batches); and with the wider of these and of a usual shift
(`remadom.eval.intervals.SHIFT`), the default. `shift` is how far the batch was shifted: the root mean square over
the proteins of the log of what was measured over what was expected, at equal depth.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mudata as md
import numpy as np
import torch

from remadom import run
from remadom.results import intervals
from remadom.results.imputation import asked, predicted

SHARED = Path(__file__).parents[2] / "shared"
STUDIES = "pbmc_multistudy_cite_mosaic.h5mu"
TEN, REAP, REAP3, TEA = "pbmc10k", "reapseq_pbmc_pbmc2", "reapseq_pbmc_pbmc3", "teaseq_pbmc_train"
CASES = [
    ("midas_pbmc_mosaic.h5mu", ("p3_0",), "p4_0"),
    ("midas_pbmc_mosaic.h5mu", ("p4_0",), "p3_0"),
    ("pbmc10k5k_cite_totalvi.h5mu", (TEN,), "pbmc5k"),
    (STUDIES, (TEN,), REAP),
    (STUDIES, (REAP,), TEN),
    (STUDIES, (REAP,), REAP3),
    (STUDIES, (TEN,), TEA),
    (STUDIES, (TEA,), TEN),
    (STUDIES, (TEA,), REAP),
    (STUDIES, (REAP,), TEA),
    (STUDIES, (REAP, REAP3), TEN),
    (STUDIES, (REAP, REAP3), TEA),
    (STUDIES, (TEN, REAP), TEA),
    (STUDIES, (TEN, TEA), REAP),
    (STUDIES, (TEN, REAP), REAP3),
]


def main() -> None:
    """Print a row for each case, and the means of those of one batch and of two."""
    asked_for = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked_for.add_argument("--data", type=Path, default=SHARED / "data")
    asked_for.add_argument("--seed", type=int, default=0)
    args = asked_for.parse_args()
    if not all((args.data / name).exists() for name, *_ in CASES):
        print(f"skipped: {', '.join(sorted({name for name, *_ in CASES}))} are not all in {args.data}")
        return
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    md.set_options(pull_on_update=False)
    print(f"{'measured':40}{'hidden':20}{'here':>7}{'told':>7}{'default':>9}{'shift':>7}")
    rows: dict[int, list[list[float]]] = {1: [], 2: []}
    for name, measured, hidden in CASES:
        found = of_case(args.data / name, measured, hidden, args.seed)
        rows[len(measured)].append(found)
        print(f"{' '.join(measured):40}{hidden:20}{figures(found)}", flush=True)
    for n, some in rows.items():
        means = np.array(some).mean(0)
        means[-1] = np.sqrt((np.array(some)[:, -1] ** 2).mean())
        print(f"{f'mean of {n} measured (root mean square of shifts)':60}{figures(means)}")


def figures(found: Sequence[float]) -> str:
    """Shares and shift in columns."""
    here, told, default, shift = found
    return f"{here:>7.3f}{told:>7.3f}{default:>9.3f}{shift:>7.2f}"


@cache
def read(file: Path) -> md.MuData:
    """A file, read once for all of its cases."""
    return md.read_h5mu(file)


def of_case(file: Path, measured: tuple[str, ...], hidden: str, seed: int) -> list[float]:
    """Coverage by the widths of the other batches, by what they tell, by the default; and the shift."""
    whole = read(file)
    batches = [*measured, hidden]
    parts = {m: whole[m][whole[m].obs["batch"].isin(batches).to_numpy()].copy() for m in ("rna", "adt")}
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
        found = predicted(assembly, "adt", *question)
        with patch.object(intervals, "ENOUGH", 0):
            told = predicted(assembly, "adt", *question).scores["coverage_90"]
            with patch.object(intervals, "_as_of_other_batches", return_value=None):
                here = predicted(assembly, "adt", *question).scores["coverage_90"]
    truth, expected = found.intervals[:2]
    expected = expected * truth.sum(1, keepdims=True) / expected.sum(1, keepdims=True)
    shown = truth.sum(0) > 0
    shift = np.log(truth.sum(0)[shown] / expected.sum(0)[shown])
    return [here, told, found.scores["coverage_90"], float(np.sqrt((shift**2).mean()))]


if __name__ == "__main__":
    main()

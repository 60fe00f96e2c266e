"""Quality on real data, in the columns of the peers' table: remadom with its defaults, and closed-form baselines.

``python -m benchmarks.quality [--data ../shared/data] [--scorer ../shared/bench] [--seeds 0 1 2] [--only midas ...]
[--set KEY=VALUE ...] [--out FOLDER]`` prints a row for each method and figure: mean over the seeds, and their spread.
The scorer and the cells to hide (``quality.py``, ``holdouts.json``) are those of the peers' figures, which stand in
``PEERS.md`` beside them. ``--set`` changes settings of remadom, for ablations.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch

from benchmarks.quality.scores import DATA, Scores, of_baselines, of_linear, of_run

SHARED = Path(__file__).parents[3] / "shared"


def main() -> None:
    """Print the table."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=SHARED / "data")
    asked.add_argument("--scorer", type=Path, default=SHARED / "bench")
    asked.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    asked.add_argument("--only", nargs="*", default=list(DATA))
    asked.add_argument("--set", nargs="*", default=[], dest="changes")
    asked.add_argument("--out", type=Path)
    args = asked.parse_args()
    if not (args.scorer / "quality.py").exists():
        print(f"skipped: {args.scorer / 'quality.py'} is not there")
        return
    sys.path.insert(0, str(args.scorer))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    hidden = json.loads((args.scorer / "holdouts.json").read_text())
    print(f"{'data':12} {'method':9} {'figure':28} {'mean':>8} {'spread':>7}  runs")
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only:
            file = args.data / DATA[name].file
            found: dict[str, Scores] = {}
            for seed in args.seeds:
                began = time.perf_counter()
                folder = (args.out or Path(scratch)) / f"{name}_{seed}"
                run, assembly = of_run(name, file, hidden[DATA[name].file], seed, folder, args.changes)
                run["seconds, all"] = time.perf_counter() - began
                add(found, "remadom", run)
                for method, scores in of_baselines(name, folder).items():
                    add(found, method, scores)
                for method, scores in of_linear(name, assembly).items() if seed == args.seeds[0] else ():
                    add(found, method, scores)  # there is no chance in them
            for method, scores in found.items():
                for figure, values in scores.items():
                    mean, spread = sum(values) / len(values), max(values) - min(values)
                    print(
                        f"{name:12} {method:9} {figure:28} {mean:8.3f} {spread:7.3f}  {len(values)}",
                        flush=True,
                    )


def add(found: dict[str, Scores], method: str, scores: dict[str, float]) -> None:
    """Add the figures of one run to those of the others."""
    for figure, value in scores.items():
        found.setdefault(method, {}).setdefault(figure, []).append(float(value))


if __name__ == "__main__":
    main()

"""The forecast of a run beside what the run then takes, from its first page to its last file.

Each line is two processes: one that forecasts, one that runs. Three mock data sets, and two real files where they are
(../shared/data). ``python benchmarks/forecast.py [--epochs 20] [--only mock pbmc]``; without ``--epochs`` each data set
is trained as long as its plan says. A machine that is busy at one of the two times tells nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from remadom.data.mock import write_mock

SHARED = Path(__file__).parents[2] / "shared" / "data"
FORECAST = """
import json, sys
from dataclasses import asdict
from remadom.config.build import assemble
from remadom.results.forecast import forecast
print(json.dumps(asdict(forecast(assemble(json.loads(sys.argv[1]))))))
"""
RUN = """
import json, sys, time
from remadom import run
from remadom.utils.machine import peak_mb
begun = []
done = run.train(json.loads(sys.argv[1]), overwrite=True, announce=lambda assembly: begun.append(time.perf_counter()))
training = sum(row["seconds"] for row in done.history.history)
print(json.dumps({"seconds": time.perf_counter() - begun[0], "training": training, "peak_mb": peak_mb()}))
"""
MOCKS = ((1000, 500), (4000, 1000), (10_000, 2000))
"""Cells and genes."""


def of(program: str, raw: dict) -> dict[str, float]:
    """What a program prints of a configuration."""
    words = [sys.executable, "-c", program, json.dumps(raw)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Print a row for each data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names to run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {f"mock_{cells}": None for cells, _ in MOCKS}
        files |= {
            name: SHARED / f"{name}.h5mu" for name in ("pbmc10k5k_cite_totalvi", "snareseq_mouse_cortex")
        }
        print(f"{'':24}{'seconds: said, taken':>24}{'training: said, taken':>24}{'MB: said, taken':>24}")
        for name, path in files.items():
            if asked.only and not any(part in name for part in asked.only):
                continue
            if path is None:
                cells, genes = next(size for size in MOCKS if name == f"mock_{size[0]}")
                path = Path(folder) / f"{name}.h5mu"
                write_mock(path, None, "bridge", cells=cells, genes=genes, peaks=2 * genes)
            if not path.exists():
                print(f"{path} is not there: left out")
                continue
            raw = {"data": {"path": str(path)}, "logging": {"run_dir": str(Path(folder) / "run")}}
            if asked.epochs is not None:
                raw["optim"] = {"epochs": asked.epochs}
            said, taken = of(FORECAST, raw), of(RUN, raw)
            columns = [
                f"{said[key]:9.1f} {taken[key]:7.1f} {said[key] / taken[key]:5.2f}x"
                for key in ("seconds", "training", "peak_mb")
            ]
            print(f"{name:24}" + " ".join(columns), flush=True)


if __name__ == "__main__":
    main()

"""Training throughput beside a peer's, on the same synthetic cells, in turn, in one run.

    python benchmarks/train_throughput.py                              # remadom alone
    python benchmarks/train_throughput.py --peer-python V/bin/python --peer-script PATH/peer_epoch.py

The peer's environment needs ``torch==2.13.0 scvi-tools==1.4.2``. Each program runs in a process of its own,
A B A B, with two threads; the figure is cells divided by the median wall time of an epoch, the first epoch
dropped, and the peak memory of the whole process with imports and data. Cells: 10,000 with 2,000 genes
(10 % dense), and 10,000 peaks (2 % dense) or 100 proteins; batches of 512, hidden width 128, latent dimension 10,
two batches to condition on. Decoders are those that remadom chooses for such data; ``--set`` changes them, and
``--set model.decoders.rna.inflation=cell --set model.decoders.atac.lowrank=null`` gives those of the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = {"scvi": ("rna",), "totalvi": ("rna", "adt"), "multivi": ("rna", "atac")}
THREADS = 2
TARGET = 3.0


def environment(threads: int, wait: str) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    rest = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return {**rest, **dict.fromkeys(names, str(threads)), **({"OMP_WAIT_POLICY": wait} if wait else {})}


def synthetic(modalities: tuple[str, ...], n_cells: int):
    """MuData of unstructured counts: speed does not depend on what the counts mean."""
    import anndata as ad
    import mudata as md
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(n_cells)]

    def counts(n_features: int, density: float, binary: bool) -> sp.csr_matrix:
        n_each = rng.binomial(n_features, density, n_cells)
        indptr = np.concatenate([[0], np.cumsum(n_each)])
        indices = np.concatenate(
            [np.sort(rng.choice(n_features, n, replace=False)).astype(np.int32) for n in n_each]
        )
        values = np.ones(len(indices)) if binary else 1 + rng.geometric(0.4, len(indices))
        return sp.csr_matrix((values.astype(np.float32), indices, indptr), shape=(n_cells, n_features))

    blocks = {
        "rna": lambda: counts(2000, 0.10, False),
        "atac": lambda: counts(10_000, 0.02, True),
        "adt": lambda: sp.csr_matrix(
            rng.poisson(rng.gamma(2, 10, (1, 100)), (n_cells, 100)).astype(np.float32)
        ),
    }
    obs = pd.DataFrame({"batch": pd.Categorical([str(i % 2) for i in range(n_cells)])}, index=names)
    parts = {}
    for m in modalities:
        x = blocks[m]()
        parts[m] = ad.AnnData(
            x, obs=obs.copy(), var=pd.DataFrame(index=[f"{m}{j}" for j in range(x.shape[1])])
        )
    with md.set_options(pull_on_update=False):
        return md.MuData(parts)


def one(case: str, n_cells: int, epochs: int, settings: list[str]) -> dict[str, float]:
    """Train in this process and print one JSON line."""
    import torch

    from remadom.config.build import assemble
    from remadom.config.load import gather, overlay
    from remadom.train.trainer import Trainer

    torch.set_num_threads(THREADS)
    raw = {
        "alignment": {},  # the peers align nothing
        "data": {"val_fraction": 0.0},
        "model": {"latent_bio": 10, "modality_dropout": 0.0},
        "optim": {"epochs": epochs + 1, "batch_size": 512, "device": "cpu"},
    }
    data = synthetic(CASES[case], n_cells)
    settings = [s for s in settings if not s.startswith("model.decoders.") or s.split(".")[2] in CASES[case]]
    assembly = assemble(overlay(raw, gather(None, settings)), data=data)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(assembly.objective, assembly.config.optim, run_dir=folder)
        history = trainer.fit(assembly.training_loader()).history
    seconds = [row["seconds"] for row in history[1:]]
    return {
        "cells_per_s": round(n_cells / statistics.median(seconds)),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def child(command: list[str], wait: str) -> dict[str, float]:
    done = subprocess.run(
        command, env=environment(THREADS, wait), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)} (default: all)")
    parser.add_argument("--peer-python", help="python of the peer's environment")
    parser.add_argument("--peer-script", default="../shared/bench/peer_epoch.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--wait", default="", choices=["", "PASSIVE"], help="OMP_WAIT_POLICY of both programs"
    )
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help="a setting such as optim.amp.enabled=true")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.cells, options.epochs, options.set)))
        return
    if options.peer_python and not Path(options.peer_script).exists():
        raise SystemExit(f"{options.peer_script}: no such file; name the peer's script with --peer-script")
    sizes = ["--cells", str(options.cells), "--epochs", str(options.epochs)]
    print(f"{'case':10}{'round':>6}{'remadom cells/s':>17}{'MB':>6}{'peer cells/s':>14}{'MB':>6}{'ratio':>7}")
    for case in options.cases or CASES:
        ratios = []
        for number in range(1, options.rounds + 1):
            settings = [word for s in options.set for word in ("--set", s)]
            ours = child([sys.executable, __file__, "--one", case, *sizes, *settings], options.wait)
            line = f"{case:10}{number:>6}{ours['cells_per_s']:>17,}{ours['peak_rss_mb']:>6}"
            if options.peer_python:
                command = [options.peer_python, options.peer_script, case, *sizes, "--threads", str(THREADS)]
                theirs = child(command, options.wait)
                ratios.append(ours["cells_per_s"] / theirs["cells_per_s"])
                line += f"{theirs['cells_per_s']:>14,}{theirs['peak_rss_mb']:>6}{ratios[-1]:>7.2f}"
            print(line, flush=True)
        if ratios:
            print(
                f"{case:10}{'median ratio':>56}{statistics.median(ratios):>7.2f} (to reach: {TARGET:g})",
                flush=True,
            )


if __name__ == "__main__":
    main()

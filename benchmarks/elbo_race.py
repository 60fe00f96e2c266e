"""How long remadom, SCVI and TOTALVI take to the same held-out ELBO, side by side on real data.

    python -m benchmarks.elbo_race FILE --peer-python V/bin/python [--model scvi totalvi] [--cells N] [--threads 2]
    [--set KEY=VALUE ...]

``V`` is an environment with ``torch==2.13.0 scvi-tools==1.4.2``. For SCVI the cells of FILE (h5mu) that have RNA, for
TOTALVI those that have RNA and proteins; a tenth of them is held out, the same for both programs, and both read the
same counts. The peer trains with its defaults and its whole schedule; remadom as ``remadom train`` chooses. Each
program runs in a process of its own, one after the other. Printed: the negative ELBO of the held-out cells (nats a
cell: reconstruction and Kullback-Leibler term, unweighted) that each ends with and the seconds of training for that;
and the seconds after which each was at the worse of the two, which both reach. Both are bounds on the log-likelihood of
the same counts given their totals; the likelihoods are each program's own defaults.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NEEDED = {"scvi": ("rna",), "totalvi": ("rna", "adt")}


def prepare(file: Path, model: str, n_cells: int | None, out: Path) -> int:
    """Write the cells that have what the model needs, with a column ``split``; returns how many there are."""
    import anndata as ad
    import mudata as md
    import numpy as np

    md.set_options(pull_on_update=False)
    data = md.read_h5mu(file)
    parts = {m: data.mod[m] for m in NEEDED[model]}
    names = sorted(set.intersection(*(set(part.obs_names) for part in parts.values())))
    rng = np.random.default_rng(0)
    names = list(rng.permutation(names)[:n_cells])
    split = np.where(np.arange(len(names)) < len(names) // 10, "val", "train")
    made = {}
    for m, part in parts.items():
        x = part[names]
        counts = x.layers.get("counts", x.X)
        obs = x.obs[["batch"]].astype(str).assign(split=split)
        few = m == "adt" and hasattr(counts, "toarray")  # TOTALVI reads proteins as a dense matrix
        made[m] = ad.AnnData(counts.toarray() if few else counts.copy(), obs=obs, var=x.var[[]])
    md.MuData(made).write_h5mu(out)
    return len(names)


def peer(model: str, file: Path, threads: int) -> dict[str, list[float]]:
    """Train scvi-tools' model; run by the peer's Python."""
    import mudata as md
    import numpy as np
    import scvi
    import torch
    from lightning.pytorch.callbacks import Callback

    torch.set_num_threads(threads)
    scvi.settings.seed, scvi.settings.verbosity, scvi.settings.dl_num_workers = 0, 40, 0
    stamps: list[float] = []

    class Clock(Callback):
        def on_train_epoch_end(self, trainer, module):
            stamps.append(time.perf_counter())

    md.set_options(pull_on_update=False)
    data = md.read_h5mu(file)
    obs = data.mod["rna"].obs
    if model == "scvi":
        rna = data.mod["rna"]
        scvi.model.SCVI.setup_anndata(rna, batch_key="batch")
        net = scvi.model.SCVI(rna)
    else:
        data.obs["batch"] = obs["batch"]
        scvi.model.TOTALVI.setup_mudata(
            data, rna_layer=None, protein_layer=None, batch_key="batch",
            modalities={"rna_layer": "rna", "protein_layer": "adt"},
        )  # fmt: skip
        net = scvi.model.TOTALVI(data)
    split = [np.flatnonzero(obs["split"] == part) for part in ("train", "val")]
    indexing = {"external_indexing": [*split, np.zeros(0, dtype=int)]}
    began = time.perf_counter()
    net.train(
        accelerator="cpu",
        check_val_every_n_epoch=1,
        enable_progress_bar=False,
        callbacks=[Clock()],
        **(indexing if model == "totalvi" else {"datasplitter_kwargs": indexing}),
    )
    elbo = net.history["elbo_validation"].iloc[:, 0].astype(float).tolist()
    return {"seconds": [s - began for s in stamps], "elbo": elbo}


def ours(file: Path, threads: int, changes: list[str]) -> dict[str, list[float]]:
    """Train remadom as the command does; run in a process of its own."""
    import torch

    from remadom import run
    from remadom.config.load import gather, overlay
    from remadom.train.trainer import Trainer

    torch.set_num_threads(threads)
    stamps: list[float] = []
    epoch = Trainer._epoch

    def clocked(self, *given):
        if not stamps:
            stamps.append(time.perf_counter())
        epoch(self, *given)
        stamps.append(time.perf_counter())

    Trainer._epoch = clocked  # an epoch's own seconds leave out validation and checkpoints, the peer's do not
    with tempfile.TemporaryDirectory() as folder:
        raw = {
            "data": {"path": str(file), "split_key": "split"},
            "optim": {"early_stopping": {"enabled": False}},
            "logging": {"run_dir": folder},
        }
        run.train(overlay(raw, gather(None, changes)))
        rows = json.loads((Path(folder) / "train_history.json").read_text())["history"]
    return {
        "seconds": [stamp - stamps[0] for stamp in stamps[1:]],
        "elbo": [row["val"]["elbo.recon"] + row["val"]["elbo.kl"] for row in rows],
    }


def child(command: list[str]) -> dict[str, Any]:
    """What a process prints last, as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    printed: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return printed


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--peer-python")
    parser.add_argument("--model", nargs="*", choices=NEEDED, default=list(NEEDED))
    parser.add_argument("--cells", type=int, help="at most this many cells, drawn at random")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], dest="changes", help="settings of remadom")
    parser.add_argument("--one", choices=["ours", *NEEDED], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        curve = (
            ours(asked.file, asked.threads, asked.changes)
            if asked.one == "ours"
            else peer(asked.one, asked.file, asked.threads)
        )
        print("\n" + json.dumps(curve))
        return
    if not asked.file.exists():
        print(f"skipped: {asked.file} is not there")
        return
    if not asked.peer_python:
        raise SystemExit("--peer-python is missing: the Python of an environment that has scvi-tools")
    print(
        f"{'peer':8}{'cells':>7}{'its ELBO':>10}{'s':>6}{'remadom':>9}{'s':>6}{'both at':>9}{'peer s':>8}"
        f"{'remadom s':>11}{'times':>7}"
    )
    for model in asked.model:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "cells.h5mu"
            n = prepare(asked.file, model, asked.cells, file)
            common = [__file__, str(file), "--threads", str(asked.threads), "--one"]
            a = child([sys.executable, *common, "ours", "--set", *asked.changes])
            b = child([asked.peer_python, *common, model])
        goal = max(min(a["elbo"]), min(b["elbo"]))
        mine, theirs = (
            next(s for s, value in zip(c["seconds"], c["elbo"], strict=True) if value <= goal) for c in (a, b)
        )
        print(
            f"{model:8}{n:>7,}{min(b['elbo']):>10.1f}{b['seconds'][-1]:>6.0f}{min(a['elbo']):>9.1f}"
            f"{a['seconds'][-1]:>6.0f}{goal:>9.1f}{theirs:>8.1f}{mine:>11.1f}{theirs / mine:>7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

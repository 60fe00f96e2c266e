"""A training process that is killed and resumed ends where an undisturbed one ends, to the bit."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from remadom.utils.checkpoint import load_checkpoint

CHILD = '''
"""Trains a small mosaic model; kills itself before a step if told to."""

import os, signal, sys

import numpy as np
import scipy.sparse as sp
import torch

from remadom.core.decoders import DECODERS
from remadom.core.encoder import GaussianEncoder
from remadom.core.fusion import ProductOfExperts
from remadom.core.inputs import INPUTS
from remadom.core.vae import MosaicVAE
from remadom.schedule import Linear
from remadom.train.objective import Objective
from remadom.train.settings import LoggingSettings, OptimSettings
from remadom.train.trainer import Trainer
from remadom.types import Batch, Rows

N, SIZES, BATCH = 70, {"rna": 40, "adt": 6}, 16
rng = np.random.default_rng(0)
counts = {m: rng.poisson(rng.gamma(1.0, 2.0, size=(N, k))).astype(np.float32) for m, k in SIZES.items()}
has = {"rna": np.ones(N, dtype=bool), "adt": rng.random(N) < 0.6}
counts["adt"][~has["adt"]] = 0


class Cells:
    def __init__(self, cells, die_at=None):
        self.cells, self.die_at, self.epoch, self.given = cells, die_at, 0, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return -(-len(self.cells) // BATCH)

    def __iter__(self):
        order = np.random.default_rng([1, self.epoch]).permutation(self.cells)
        for start in range(0, len(order), BATCH):
            if self.given == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.given += 1
            at = order[start : start + BATCH]
            yield Batch(
                x={m: Rows.of(sp.csr_matrix(x[at])) for m, x in counts.items()},
                has={m: torch.from_numpy(h[at]) for m, h in has.items()},
                library={"rna": torch.from_numpy(counts["rna"][at].sum(1))},
                groups={"batch": torch.from_numpy(at % 2)},
                index=torch.from_numpy(at),
                seed=torch.ones(len(at), dtype=torch.bool),
            )


run_dir, resume, die_at = sys.argv[1:]
torch.manual_seed(0)
model = MosaicVAE(
    {m: GaussianEncoder(k, 4, INPUTS.build("log1p", k), hidden=16) for m, k in SIZES.items()},
    ProductOfExperts(),
    {
        "rna": DECODERS.build("zinb", 4, SIZES["rna"], 2, hidden=16, dispersion="batch"),
        "adt": DECODERS.build("poisson_mixture", 4, SIZES["adt"], 2, hidden=16),
    },
    modality_dropout=0.3,
)
torch.manual_seed(int.from_bytes(os.urandom(4), "big"))  # what else the process draws must not matter
optim = OptimSettings(
    epochs=4, batch_size=BATCH, lr=0.03, device="cpu",
    scheduler={"name": "plateau", "patience": 0}, early_stopping={"enabled": True, "patience": 50},
)
trainer = Trainer(
    Objective(model, Linear(start=0.0, end=1.0, epochs=3)), optim, run_dir=run_dir,
    logging=LoggingSettings(log_interval=2), cell_names=[f"CELL{i}" for i in range(N)],
)
trainer.fit(
    Cells(np.arange(56), int(die_at) if die_at != "never" else None), Cells(np.arange(56, N)),
    resume=None if resume == "-" else resume,
)
'''

STEPS = 4
"""Steps of an epoch."""


class Training:
    """Runs the child process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "child.py").write_text(CHILD)

    def __call__(
        self,
        name: str,
        *,
        resume: Path | None = None,
        die_at: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        root = str(Path(__file__).parents[2])
        arguments = (self.folder / name, resume or "-")
        return subprocess.run(
            [
                sys.executable,
                self.folder / "child.py",
                *map(str, arguments),
                str(die_at) if die_at else "never",
            ],
            env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(training: Training) -> Path:
    done = training("whole")
    assert done.returncode == 0, done.stderr
    return training.folder / "whole"


@pytest.fixture(scope="module")
def killed(training: Training) -> Path:
    """A run that was killed in the third of four epochs."""
    done = training("killed", die_at=2 * STEPS + random.SystemRandom().randrange(STEPS))
    assert done.returncode == -signal.SIGKILL, done.stderr
    return training.folder / "killed"


def content(path: Path) -> dict[str, Any]:
    """A checkpoint without what a clock put into it."""
    parts = load_checkpoint(path)
    parts["history"] = [json.loads(line) for line in parts["history"]]
    for record in parts["history"]:
        del record["seconds"], record["cells_per_s"]
    return parts


def identical(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


def log_of(run: Path) -> list[list[str]]:
    with open(run / "train_log.csv", newline="") as file:
        return list(csv.reader(file))


def test_a_killed_and_resumed_run_is_the_undisturbed_one_to_the_bit(
    training: Training, whole: Path, killed: Path
) -> None:
    before = content(killed / "last.pt")
    assert before["epoch"] == 2
    assert not identical(before["model"], content(whole / "last.pt")["model"])
    done = training("killed", resume=killed / "last.pt")
    assert done.returncode == 0, done.stderr
    for name in ("last.pt", "checkpoint.last.pt", "best.pt", "checkpoint.best.pt"):
        assert identical(content(killed / name), content(whole / name)), name
    assert log_of(killed) == log_of(whole)
    steps = [row[1] for row in log_of(killed)[1:]]
    assert steps == [str(step) for step in (2, 4, 6, 8, 10, 12, 14, 16)]
    histories = [json.loads((run / "train_history.json").read_text()) for run in (killed, whole)]
    assert histories[0]["reason"] == histories[1]["reason"] == "finished all 4 epochs"
    losses = [record["val"]["elbo.loss"] for record in histories[0]["history"]]
    assert losses[-1] < losses[0]
    assert not list(killed.glob(".*")), "no unfinished file is left"

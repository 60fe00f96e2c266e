"""Commands as a user types them: what they print, where they fail, with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from typer.testing import CliRunner, Result

from remadom.cli.app import app
from remadom.data.mock import write_mock

SMALL = {"cells": 120, "genes": 30, "peaks": 40, "proteins": 5}
QUICK = ["optim.epochs=2", "optim.batch_size=32", "evaluation.figures=false"]


def remadom(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_mock("cells.h5mu", "cells.yaml", "mosaic", **SMALL)
    return tmp_path / "cells.h5mu"


def test_train_with_a_file_alone_prints_a_plan_and_leaves_a_run(data: Path):
    result = remadom("train", data, *QUICK)
    assert result.exit_code == 0, result.output
    for words in (
        "RNA + ATAC + ADT",
        "chosen for this data",
        "model.modality_dropout",
        "model.decoders.rna.inflation",
        "finished all 2 epochs",
    ):
        assert words in result.output
    assert (Path("runs/cells") / "embeddings.npz").exists()
    assert str(Path("runs/cells/report.html")) in result.output
    assert remadom("train", data, *QUICK).exit_code == 0, "a second run has a folder of its own"
    assert (Path("runs/cells-2") / "embeddings.npz").exists()


def test_train_by_module_and_both_flags(data: Path):
    words = [*QUICK, "logging.run_dir=runs/module"]
    command = [sys.executable, "-m", "remadom.cli.train", "--cfg", "cells.yaml", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "epoch" in done.stderr, "one line an epoch where there is no terminal"
    again = remadom("train", "--config", "cells.yaml", *words)
    assert again.exit_code == 2
    assert "holds a finished run" in again.output
    assert remadom("train", "--config", "cells.yaml", "--overwrite", *words).exit_code == 0


def test_resume_needs_only_the_checkpoint(data: Path):
    assert remadom("train", data, *QUICK, "logging.run_dir=runs/r").exit_code == 0
    result = remadom("train", "--resume", "runs/r/last.pt", "optim.epochs=3")
    assert result.exit_code == 0, result.output
    history = json.loads(Path("runs/r/train_history.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [1, 2, 3]


def test_embed(data: Path):
    remadom("train", data, *QUICK, "logging.run_dir=runs/r")
    result = remadom("embed", "runs/r", data, "--out", "e.npz")
    assert result.exit_code == 0, result.output
    assert np.load("e.npz")["z_bio"].shape == (120, 16)


def test_config_show_resolves_and_schema_is_json(data: Path):
    shown = yaml.safe_load(remadom("config", "show", data, "optim.lr=0.5").output)
    assert shown["optim"]["lr"] == 0.5
    assert shown["model"]["decoders"]["rna"]["out_dim"] == SMALL["genes"]
    plain = yaml.safe_load(remadom("config", "show", "--no-data", "--config", "cells.yaml").output)
    assert plain["model"]["decoders"] == {}
    assert json.loads(remadom("config", "schema").output)["title"] == "remadom run configuration"


def test_a_traceback_is_ours_only(data: Path, monkeypatch: pytest.MonkeyPatch):
    from remadom import run

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(run, "train", broken)
    result = remadom("train", data)
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


def save(x: object, path: str = "bad.h5ad", **obs: object) -> str:
    n = x.shape[0]  # type: ignore[attr-defined]
    table = pd.DataFrame(obs, index=[f"c{i}" for i in range(n)])
    ad.AnnData(x, obs=table, var=pd.DataFrame(index=[f"g{j}" for j in range(x.shape[1])])).write_h5ad(path)  # type: ignore[attr-defined]
    return path


def counts(n: int = 20, genes: int = 8) -> np.ndarray:
    return np.random.default_rng(0).poisson(1.0, (n, genes)).astype(np.float32)


def changed(value: float) -> np.ndarray:
    x = counts()
    x[3, 2] = value
    return x


def one_row_names_twice() -> str:
    data = ad.AnnData(counts(), var=pd.DataFrame(index=[f"g{j}" for j in range(8)]))
    data.obs_names = ["same", "same", *[f"c{i}" for i in range(18)]]
    data.write_h5ad("bad.h5ad")
    return "bad.h5ad"


def empty_cell() -> str:
    present = [True] * 19 + [False]
    return save(counts(), has_rna=present)


def garbage(name: str) -> str:
    Path(name).write_bytes(b"not a data file")
    return name


BAD_INPUT = {
    "missing file": (lambda: "no.h5ad", [], "no.h5ad"),
    "not a data file": (lambda: garbage("bad.h5ad"), [], "bad.h5ad"),
    "unknown suffix": (lambda: garbage("bad.csv"), [], ".h5ad"),
    "negative counts": (lambda: save(changed(-1)), [], "negative.*first: -1 of feature 'g2' in cell 'c3'"),
    "NaN counts": (lambda: save(changed(np.nan)), [], "missing.*cell 'c3'"),
    "infinite counts": (lambda: save(changed(np.inf)), [], "infinite.*cell 'c3'"),
    "normalized values": (lambda: save(changed(0.5)), [], "fractional.*data.keys.rna"),
    "one cell": (lambda: save(counts(1)), [], "one cell"),
    "empty modality": (lambda: save(counts(), has_rna=[False] * 20), [], "20 of 20 cells have no modality"),
    "cell without a modality": (empty_cell, [], "c19"),
    "duplicated cell names": (one_row_names_twice, [], "same"),
    "wrong encoder size": (
        lambda: save(counts()),
        ["model.encoders.rna.in_dim=9"],
        "encoder expects 9.*has 8",
    ),
    "wrong decoder size": (
        lambda: save(counts()),
        ["model.decoders.rna.out_dim=7"],
        "decoder gives 7.*has 8",
    ),
    "wrong batches": (lambda: save(counts()), ["model.decoders.rna.conditional_batches=3"], "has 1 batch;"),
    "missing column": (lambda: save(counts()), ["data.batch_key=donor"], "donor"),
    "NaN batch": (lambda: save(counts(), batch=["a", None] * 10), [], "batch"),
    "missing matrix": (lambda: save(counts()), ["data.keys.rna=layers:count"], "layers:count"),
    "unknown modality": (lambda: save(counts()), ["data.keys.rnb=X"], "did you mean 'rna'"),
    "modality not there": (lambda: save(counts()), ["data.modalities=[rna, adt]"], "adt"),
    "no decoder": (lambda: save(counts()), ["model.decoders.rna=null"], "no decoder"),
    "split words": (lambda: save(counts(), part=["a"] * 20), ["data.split_key=part"], "part"),
    "unknown key": (lambda: save(counts()), ["optim.epoch=3"], "did you mean 'epochs'"),
    "impossible value": (lambda: save(counts()), ["optim.lr=0"], "greater than 0"),
    "nothing technical to explain": (lambda: save(counts()), ["model.latent_tech=4"], "one batch"),
    "one batch to align": (lambda: save(counts()), ["alignment.mmd.enabled=true"], "has one group of batch"),
    "an unknown head": (lambda: save(counts()), ["alignment.mdm.enabled=true"], "did you mean 'mmd'"),
    "a bridge without what it needs": (lambda: save(counts()), ["bridge.provider=linmap"], "modalit"),
    "too many components": (
        lambda: (write_mock("lsi.h5mu", None, "paired", **SMALL), "lsi.h5mu")[1],
        ["data.preprocess.atac.lsi.enabled=true", "data.preprocess.atac.lsi.n_components=500"],
        "n_components",
    ),
    "unknown monitor": (
        lambda: save(counts()),
        ["optim.early_stopping={enabled: true, monitor: elbo.los}"],
        "did you mean 'elbo.loss'",
    ),
    "weight of a modality that is not there": (
        lambda: save(counts()),
        ["model.modality_weights={adt: 2}"],
        "model.modality_weights.adt: the data has no modality 'adt'",
    ),
    "resume of nothing": (lambda: save(counts()), ["--resume", "nowhere"], "nowhere"),
    "no GPU": (lambda: save(counts()), ["optim.device=cuda"], "cuda"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_told_in_words_with_exit_code_2_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    make, settings, message = BAD_INPUT[name]
    result = remadom("train", make(), *QUICK, *settings)
    assert result.exit_code == 2, (result.output, result.exception)
    told = " ".join(result.stderr.split())
    assert pd.Series([told]).str.contains(message)[0], told
    assert "Traceback" not in told
    assert not Path("runs").exists(), "nothing was begun"


def test_a_sparse_matrix_of_all_zero_cells_that_were_measured_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    x = counts(30)
    x[5] = 0
    result = remadom("train", save(sp.csr_matrix(x)), *QUICK)
    assert result.exit_code == 0, result.output

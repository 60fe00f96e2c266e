from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from remadom import run
from remadom.cli.app import app
from remadom.config.build import Assembly, assemble
from remadom.config.load import overlay, read_config
from remadom.data.mock import write_mock
from remadom.results import forecast as forecasts
from remadom.results.forecast import forecast
from remadom.utils.checkpoint import load_checkpoint
from remadom.utils.machine import peak_mb
from remadom.utils.outputs import DIAGNOSIS, LAST

SIZES = {"cells": 400, "genes": 60, "peaks": 60, "proteins": 8}


def test_the_first_page_says_what_the_data_is_and_writes_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mock(tmp_path / "bridge.h5mu", None, "bridge", **SIZES)
    before = set(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["diagnose", "bridge.h5mu", "optim.epochs=7"])
    assert done.exit_code == 0, done.output
    for words in (
        "problem: bridge",
        "batch_1",
        "optim.batch_size",
        "time: about",
        "memory: about",
        "values",
    ):
        assert words in done.output
    assert "to train: remadom train bridge.h5mu optim.epochs=7" in done.output
    assert set(tmp_path.rglob("*")) == before
    assert CliRunner().invoke(app, ["diagnose", "bridge.h5mu", "--json", "page.json"]).exit_code == 0
    page = json.loads((tmp_path / "page.json").read_text())
    assert page["problem"]["type"] == "bridge"
    assert {row["setting"] for row in page["settings"]} >= {"optim.epochs", "alignment"}
    again = CliRunner().invoke(app, ["diagnose", "bridge.h5mu", "--json", "page.json"])
    assert again.exit_code == 2


def test_a_run_keeps_its_first_page(tmp_path: Path):
    write_mock(tmp_path / "a.h5ad", tmp_path / "a.yaml", "mosaic", **SIZES)
    raw = overlay(
        read_config(tmp_path / "a.yaml"), {"optim": {"epochs": 1}, "evaluation": {"figures": False}}
    )
    done = run.train(overlay(raw, {"logging": {"run_dir": str(tmp_path / "run")}}))
    page = json.loads((done.dir / DIAGNOSIS).read_text())
    assert page == json.loads(json.dumps(done.assembly.described()))
    assert page["problem"]["type"] == "mosaic"
    assert "Problem: mosaic" in (done.dir / "report.html").read_text()


@pytest.fixture
def raw(tmp_path: Path) -> dict:
    """A run on a small mock, with all that has edges of the latent."""
    write_mock(tmp_path / "a.h5ad", None, "bridge", **SIZES)
    return {
        "data": {"path": str(tmp_path / "a.h5ad")},
        "logging": {"run_dir": str(tmp_path / "run")},
        "optim": {"epochs": 3, "early_stopping": {"enabled": False}},
        "structure": {"laplacian_enabled": True, "refresh": 1},
        "bridge": {"provider": "mnn", "refresh": 1},
        "evaluation": {"figures": False, "truth_key": None},
    }


def test_the_forecast_is_of_the_right_size(raw: dict):
    """Within a factor of three, on a machine that is busy with other tests; benchmarks/forecast.py shows 30 %."""
    begun = []

    def announce(assembly: Assembly) -> None:
        begun.append((forecast(assembly), time.perf_counter()))

    done = run.train(raw, announce=announce)
    ((said, since),) = begun
    taken = time.perf_counter() - since
    assert said.steps == done.history.history[-1]["step"]
    assert taken / 3 < said.seconds < taken * 3
    assert said.seconds == pytest.approx(said.training + said.measuring + said.drawing)
    assert peak_mb() / 2 < said.peak_mb < peak_mb() * 2


def test_a_forecast_changes_nothing(raw: dict, tmp_path: Path):
    plain = run.train(raw)
    again = {**raw, "logging": {"run_dir": str(tmp_path / "again")}}
    timed = run.train(again, announce=lambda assembly: forecast(assembly))
    left, right = (load_checkpoint(done.dir / LAST)["model"] for done in (plain, timed))
    assert left.keys() == right.keys()
    for name, value in left.items():
        if torch.is_tensor(value):
            assert torch.equal(value, right[name]), name
    assert [row["train"] for row in plain.history.history] == [row["train"] for row in timed.history.history]


def test_figures_and_size_take_more(raw: dict, tmp_path: Path):
    said = forecast(assemble(raw))
    drawn = forecast(assemble({**raw, "evaluation": {"figures": True, "truth_key": None}}))
    assert said.drawing == 0 < drawn.drawing
    assert drawn.peak_mb > said.peak_mb
    longer = forecast(assemble({**raw, "optim": {"epochs": 30, "early_stopping": {"enabled": False}}}))
    assert longer.steps == 10 * said.steps
    assert longer.training > 3 * said.training
    values = assemble(raw).diagnosis.modalities.values()
    stored = sum(round(v.density * v.cells * v.features) for v in values)
    assert said.matrices_mb == pytest.approx(8 * stored / 2**20)


def test_coordinates_that_are_not_fitted_take_no_time(raw: dict):
    decoded, latent = (
        forecasts._finishing(assemble(overlay(raw, {"model": {"coordinates": kind}})))
        for kind in ("decoded", "latent")
    )
    assert latent < decoded


def test_a_run_shows_the_same_page(raw: dict, tmp_path: Path):
    words = ["train", raw["data"]["path"], "optim.epochs=1", "evaluation.figures=false"]
    done = CliRunner().invoke(app, [*words, f"logging.run_dir={tmp_path / 'out'}"])
    assert done.exit_code == 0, done.output
    for words in ("problem: bridge", "links: all modalities are linked", "time: about", "memory: about"):
        assert words in done.output


def test_what_cannot_be_trained_on_is_told(tmp_path: Path):
    missing = CliRunner().invoke(app, ["diagnose", str(tmp_path / "none.h5ad")])
    assert missing.exit_code == 2
    assert "none.h5ad" in missing.output

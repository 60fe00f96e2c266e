"""Intervals of imputed values in batches that have the modality and in batches that never had it."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from remadom import imputing, run, sharing
from remadom.config.trained import Trained
from remadom.results import intervals
from remadom.results.intervals import Widths

BATCHES, CELLS, GENES, PROTEINS = 5, 80, 40, 8


def cells(n_measured: int = BATCHES) -> dict[str, ad.AnnData]:
    """Two types of cells; each batch has a factor of its own for every protein, and some batches no protein."""
    rng = np.random.default_rng(0)
    batch, kind = np.repeat(np.arange(BATCHES), CELLS), np.tile([0, 1], BATCHES * CELLS // 2)
    names = [f"cell{i}" for i in range(len(batch))]
    genes = rng.poisson(np.exp(rng.normal(0.5, 1, (2, GENES)))[kind])
    shift = np.exp(rng.normal(0, 0.7, (BATCHES, PROTEINS)))
    proteins = rng.poisson(20 * np.exp(rng.normal(0, 0.8, (2, PROTEINS)))[kind] * shift[batch])

    def table(values: np.ndarray, at: np.ndarray) -> ad.AnnData:
        found = ad.AnnData(sp.csr_matrix(values[at].astype(np.float32)))
        found.obs_names, found.obs["batch"] = np.array(names)[at], batch[at].astype(str)
        found.var_names = [f"{values.shape[1]}_{j}" for j in range(values.shape[1])]
        return found

    return {"rna": table(genes, batch >= 0), "adt": table(proteins, batch < n_measured)}


@pytest.fixture
def raw(tmp_path: Path) -> dict:
    return {
        "data": {"batch_key": "batch", "val_fraction": 0.2},
        "model": {"latent_bio": 4, "encoders": {"rna": {"components": 0}}},
        "optim": {"epochs": 25, "batch_size": 32, "early_stopping": {"enabled": False}},
        "evaluation": {"figures": False, "holdout": {"adt": {"batches": ["4"]}}},
        "logging": {"run_dir": str(tmp_path / "run")},
    }


def scores(folder: Path) -> dict:
    found: dict = json.loads((folder / "metrics.final.json").read_text())["evaluation"]["imputation"]["adt"]
    return found


def test_a_batch_without_the_modality_has_widths_of_its_own(raw: dict, tmp_path: Path, monkeypatch):
    done = run.train(raw, data=cells())
    found = scores(tmp_path / "run")
    arrays = np.load(tmp_path / "run" / "calibration.npz")
    assert set(arrays) >= {"adt", "adt/elsewhere"}
    assert (arrays["adt/elsewhere"] > arrays["adt"]).mean() > 0.8
    assert not found["shift_unknown"]
    assert found["coverage_90"] >= 0.85

    # a batch that is left out for a moment is back afterwards
    assert done.assembly.model.decoder("adt").batch.seen.tolist() == [1, 1, 1, 1, 0]

    trained = Trained.load(tmp_path / "run")
    out = imputing.impute(tmp_path / "run", "adt", tmp_path / "adt.h5ad", cells())
    written = ad.read_h5ad(out)
    apart = np.log1p(written.layers["upper"]) - np.log1p(written.layers["lower"])
    apart = np.asarray(apart)
    batch = written.obs["batch"].astype(str).to_numpy()
    assert apart[batch == "4"].mean() > 1.3 * apart[batch == "0"].mean()
    as_one = ad.read_h5ad(
        imputing.impute(tmp_path / "run", "adt", tmp_path / "as_one.h5ad", cells(), batch="0")
    )
    same = np.log1p(as_one.layers["upper"]) - np.log1p(as_one.layers["lower"])
    assert np.asarray(same)[batch == "4"].mean() < apart[batch == "4"].mean()

    shared = Trained.load(sharing.save(trained.path.parent, tmp_path / "model", data=cells()))
    kept = Widths.from_arrays(shared.calibration, "adt")
    assert kept is not None
    np.testing.assert_array_equal(kept.elsewhere, arrays["adt/elsewhere"])

    monkeypatch.setattr(intervals, "_as_of_other_batches", lambda *_: None)
    monkeypatch.setattr(intervals, "_as_if_shifted", lambda *_: None)
    raw["logging"]["run_dir"] = str(tmp_path / "without")
    run.train(raw, data=cells())
    assert scores(tmp_path / "without")["coverage_90"] < found["coverage_90"] - 0.1


def test_one_batch_with_the_modality_tells_nothing_of_others_so_a_usual_shift_is_assumed(
    raw: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    raw["evaluation"]["holdout"]["adt"] = {"batches": ["1", "2", "3", "4"]}
    raw["data"]["val_fraction"] = 0.4  # enough cells of the one batch to calibrate on
    held = {}
    for shift in (0.8, 0.0):
        monkeypatch.setattr(intervals, "SHIFT", shift)
        run.train(raw, data=cells(), overwrite=True)
        found, arrays = scores(tmp_path / "run"), np.load(tmp_path / "run" / "calibration.npz")
        assert found["shift_unknown"]
        held[shift] = found["coverage_90"]
        wider = arrays["adt/elsewhere"] - arrays["adt"]
        assert (wider > 0.4).all() if shift else np.allclose(wider, 0, atol=1e-6)
    assert held[0.8] > 0.85  # the cells' own batches are shifted by 0.7
    assert held[0.0] < 0.7
    assert "so few batches have it" in (tmp_path / "run" / "report.html").read_text()


def test_of_few_batches_the_wider_of_their_spread_and_the_usual_shift_counts(
    raw: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    raw["evaluation"]["holdout"]["adt"] = {"batches": ["2", "3", "4"]}
    raw["data"]["val_fraction"] = 0.4
    raw["optim"]["epochs"] = 5
    wide = {}
    for name, shift, alone in (("both", 0.8, False), ("their spread", 0.0, False), ("shift", 0.8, True)):
        with monkeypatch.context() as changed:
            changed.setattr(intervals, "SHIFT", shift)
            if alone:
                changed.setattr(intervals, "_as_of_other_batches", lambda *_: None)
            run.train(raw, data=cells(), overwrite=True)
        wide[name] = np.load(tmp_path / "run" / "calibration.npz")["adt/elsewhere"]
        assert scores(tmp_path / "run")["shift_unknown"]
    np.testing.assert_allclose(wide["both"], np.maximum(wide["their spread"], wide["shift"]))
    assert (wide["both"] > wide["shift"]).any()
    assert (wide["both"] > wide["their spread"]).any()


def test_counts_as_if_each_cell_were_of_a_batch_of_its_own():
    truth = np.full((4000, 2), 10.0)
    truth[0, 1] = np.nan
    drawn = intervals._Drawn(truth, truth, {})
    found = intervals._as_if_shifted(drawn, 0)
    logs = np.log(found.truth[1:] / 10)
    np.testing.assert_allclose(logs.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(logs.std(0), intervals.SHIFT, rtol=0.05)
    assert np.isnan(found.truth[0, 1])
    assert (drawn.truth[1:] == 10).all()


def test_cells_without_widths_elsewhere_get_those_of_the_others():
    here = np.array([0.1, 0.2])
    assert Widths(here).of(np.array([True, False])).tolist() == [[0.1, 0.2], [0.1, 0.2]]
    assert Widths(here, here + 1).of(np.array([True, False])).tolist() == [[0.1, 0.2], [1.1, 1.2]]
    assert Widths.from_arrays({}, "adt") is None


def test_intervals_that_are_calibrated_on_cells_of_such_batches_know_the_shift(raw: dict, tmp_path: Path):
    """Without validation cells half of the hidden ones calibrate, and these are of the batches in question."""
    raw["evaluation"]["holdout"]["adt"] = {"batches": ["1", "2", "3", "4"]}
    raw["data"]["val_fraction"] = 0.0
    raw["optim"]["epochs"] = 3
    run.train(raw, data=cells())
    assert not scores(tmp_path / "run")["shift_unknown"]

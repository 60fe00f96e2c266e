"""What is done with a finished run: impute, export, evaluate, by command and by function."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from remadom import evaluating, exporting, imputing, run
from remadom.cli.app import app
from remadom.config.load import overlay, read_config
from remadom.data.mock import generate, to_mudata, write_mock
from remadom.errors import InputError
from remadom.utils.outputs import CALIBRATION, METRICS, REPORT

SIZES = {"cells": 240, "genes": 60, "peaks": 60, "proteins": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on a ragged MuData, with figures."""
    folder = tmp_path_factory.mktemp("trained")
    write_mock(folder / "mosaic.h5mu", folder / "mosaic.yaml", "mosaic", **SIZES)
    raw = read_config(folder / "mosaic.yaml")
    quick = {
        "model": {"encoders": {"rna": {"components": 0}}},
        "optim": {"epochs": 30, "batch_size": 64},
        "logging": {"run_dir": str(folder / "run")},
    }
    run.train(overlay(raw, quick))
    return folder / "run"


def read(path: Path) -> md.MuData:
    with md.set_options(pull_on_update=False):
        return md.read_h5mu(path)


def command(*words: str | Path) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.output


def about(value: object) -> object:
    """The same with a tolerance for each number."""
    if isinstance(value, dict):
        return {key: about(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [about(entry) for entry in value]
    return pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value


def test_the_metrics_have_the_documented_parts(trained: Path):
    metrics = json.loads((trained / METRICS).read_text())
    assert list(metrics) == ["run", "train", "val", "alignment", "bridge", "evaluation"]
    evaluation = metrics["evaluation"]
    assert list(evaluation) == ["integration", "modalities", "imputation", "trust", "mosaic"]
    assert set(evaluation["imputation"]) == {"rna", "atac", "adt"}
    for scores in evaluation["imputation"].values():
        assert {"mean", "knn", "ridge"} == set(scores["baselines"])
        assert 0.5 < scores["coverage_90"] <= 1
        assert set(scores["beaten_by"]) <= set(scores["baselines"])
    assert set(evaluation["modalities"]) == {"rna-atac", "rna-adt", "atac-adt"}
    assert metrics["run"]["problem"] == "mosaic"
    figures = json.loads((trained / "figures" / "figures.json").read_text())
    assert {entry["file"] for entry in figures} == {p.name for p in (trained / "figures").glob("*.png")}


def test_impute_writes_every_cell_with_its_interval(trained: Path, tmp_path: Path):
    out = tmp_path / "adt.h5ad"
    command("impute", trained, "--modality", "adt", "--out", out, "--samples", "2")
    found = ad.read_h5ad(out)
    whole = read(trained.parent / "mosaic.h5mu")
    assert found.shape == (240, 8)
    assert found.obs["measured"].sum() == whole["adt"].n_obs
    assert sorted(found.layers) == ["draw_1", "draw_2", "lower", "upper"]
    assert (found.layers["lower"] <= found.layers["upper"]).all()
    inside = (found.layers["lower"] <= found.X) & (found.layers["upper"] >= found.X)
    assert inside.mean() > 0.9
    draws = found.layers["draw_1"]
    assert (draws == np.rint(draws)).all()
    assert not np.array_equal(draws, found.layers["draw_2"])
    assert found.uns["remadom"]["coverage_90"] == pytest.approx(
        json.loads((trained / METRICS).read_text())["evaluation"]["imputation"]["adt"]["coverage_90"]
    )
    truth = np.log1p(whole.obsm["truth_adt"].toarray()[whole.obs_names.get_indexer(found.obs_names)])
    lacking = ~found.obs["measured"].to_numpy()
    assert np.corrcoef(np.log1p(found.X)[lacking].ravel(), truth[lacking].ravel())[0, 1] > 0.25


def test_impute_at_a_depth_and_as_a_batch(trained: Path, tmp_path: Path):
    deep = ad.read_h5ad(imputing.impute(trained, "rna", tmp_path / "a.h5ad", depth=500.0, intervals=False))
    assert np.allclose(deep.X.sum(1), 500, rtol=1e-4)
    one, other = (
        ad.read_h5ad(
            imputing.impute(trained, "adt", tmp_path / f"{batch}.h5ad", batch=batch, intervals=False)
        ).X
        for batch in ("batch_1", "average")
    )
    assert not np.allclose(one, other)
    only = ad.read_h5ad(imputing.impute(trained, "rna", tmp_path / "b.h5ad", missing=True, intervals=False))
    assert not only.obs["measured"].any()
    own = ad.read_h5ad(imputing.impute(trained, "rna", tmp_path / "c.h5ad", intervals=False))
    at = own.obs_names.get_indexer(only.obs_names)
    assert np.allclose(only.X, own.X[at], rtol=1e-4)


def test_cells_without_the_modality_have_the_depth_of_cells_like_them(tmp_path: Path):
    data = to_mudata(generate("mosaic", **{**SIZES, "cells": 600}, seed=0))
    rna = data.mod["rna"]
    kinds = rna.obs["cell_type"].astype(str).to_numpy()
    deep = kinds == kinds[0]
    rna.X[deep] = rna.X[deep] * 6  # cells of one type have more RNA
    raw = {"optim": {"epochs": 10, "batch_size": 64}, "logging": {"run_dir": str(tmp_path / "run")}}
    done = run.train(overlay(raw, {"evaluation": {"figures": False}}), data=data)
    settings = {"data": data, "missing": True, "intervals": False}
    for batch in ("own", "average"):
        out = tmp_path / f"{batch}.h5ad"
        found = ad.read_h5ad(imputing.impute(done.dir.path, "rna", out, batch=batch, **settings))
        totals, alike = found.X.sum(1), found.obs["cell_type"] == kinds[0]
        assert not found.obs["measured"].any()
        assert np.median(totals[alike]) > 1.25 * np.median(totals[~alike])
    own = ad.read_h5ad(
        imputing.impute(done.dir.path, "rna", tmp_path / "all.h5ad", data=data, intervals=False)
    )
    measured = own[rna.obs_names].X.sum(1)
    np.testing.assert_allclose(measured, np.asarray(rna.X.sum(1)).ravel(), rtol=0.1)  # as sequenced


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"modality": "atc"}, "no decoder of 'atc': did you mean 'atac'"),
        ({"modality": "atac", "depth": 10.0}, "probabilities have no depth"),
        ({"modality": "rna", "depth": -1.0}, "give a total above 0"),
        ({"modality": "rna", "batch": "batch_7"}, "batch 'batch_7': did you mean 'batch_"),
        ({"modality": "rna", "out": "x.csv"}, "the suffix is '.csv'"),
    ],
)
def test_what_cannot_be_imputed_is_told(trained: Path, tmp_path: Path, words: dict, message: str):
    words = {"out": "x.h5ad", **words}
    with pytest.raises(InputError, match=message):
        imputing.impute(trained, words.pop("modality"), tmp_path / words.pop("out"), **words)
    assert not list(tmp_path.iterdir())


def test_without_calibration_the_intervals_are_the_model_s_own(trained: Path, tmp_path: Path):
    alone = tmp_path / "best.pt"
    alone.write_bytes((trained / "best.pt").read_bytes())
    assert (trained / CALIBRATION).exists()
    own = ad.read_h5ad(imputing.impute(alone, "adt", tmp_path / "own.h5ad"))
    held = ad.read_h5ad(imputing.impute(trained, "adt", tmp_path / "held.h5ad"))
    assert not own.uns["remadom"]["calibrated"]
    assert held.uns["remadom"]["calibrated"]
    assert np.array_equal(own.layers["lower"], np.rint(own.layers["lower"]))
    assert not np.array_equal(own.layers["upper"], held.layers["upper"])


def test_export_puts_the_embedding_into_a_copy(trained: Path, tmp_path: Path):
    out = tmp_path / "copy.h5mu"
    command("export", trained, "--out", out, "--impute", "adt")
    found, before = read(out), read(trained.parent / "mosaic.h5mu")
    embedding = np.load(trained / "embeddings.npz")
    at = {name: i for i, name in enumerate(embedding["obs_names"])}
    rows = [at[name] for name in found.obs_names]
    assert np.allclose(found.obsm["X_remadom"], embedding["z_bio"][rows])
    assert np.allclose(
        found["rna"].obsm["X_remadom"], embedding["z_bio"][[at[n] for n in found["rna"].obs_names]]
    )
    assert found.obsm["remadom_adt"].shape == (240, 8)
    assert list(found.uns["remadom_adt_names"]) == list(before["adt"].var_names)
    assert (found["rna"].X != before["rna"].X).nnz == 0
    with pytest.raises(InputError, match="exists"):
        exporting.export(trained, out)
    with pytest.raises(InputError, match=r"is copied as .h5mu or .zarr"):
        exporting.export(trained, tmp_path / "copy.h5ad")
    assert [p.name for p in tmp_path.iterdir()] == ["copy.h5mu"]


def test_export_of_an_anndata_and_of_other_cells(tmp_path: Path):
    write_mock(tmp_path / "a.h5ad", tmp_path / "a.yaml", "paired", **{**SIZES, "cells": 80})
    raw = overlay(
        read_config(tmp_path / "a.yaml"), {"optim": {"epochs": 1}, "evaluation": {"figures": False}}
    )
    run.train(overlay(raw, {"logging": {"run_dir": str(tmp_path / "run")}}))
    data = ad.read_h5ad(tmp_path / "a.h5ad")
    others = data[:2].copy()
    others.obs_names = ["new_1", "new_2"]
    more = ad.concat([data, others], merge="same")
    more.write_h5ad(tmp_path / "more.h5ad")
    found = ad.read_h5ad(exporting.export(tmp_path / "run", tmp_path / "b.h5ad", tmp_path / "more.h5ad"))
    assert np.isnan(found.obsm["X_remadom"][-2:]).all()
    assert np.isfinite(found.obsm["X_remadom"][:-2]).all()


def test_evaluate_again_measures_the_same(trained: Path):
    before = json.loads((trained / METRICS).read_text())
    (trained / REPORT).unlink()
    done = evaluating.evaluate(trained)
    after = json.loads((trained / METRICS).read_text())
    for part in ("run", "train", "val", "alignment"):
        assert after[part] == before[part]
    assert after["evaluation"] == about(before["evaluation"])
    assert done.metrics["evaluation"].keys() == after["evaluation"].keys()
    assert (trained / REPORT).exists()


def test_evaluate_an_embedding_of_any_tool(trained: Path, tmp_path: Path):
    whole = json.loads((trained / METRICS).read_text())["evaluation"]["integration"]
    path = trained / "embeddings.npz"
    found = json.loads(command("evaluate", "--embedding", path, "--data", trained.parent / "mosaic.h5mu"))
    assert found == pytest.approx({k: v for k, v in whole.items() if k != "pcr"})
    with np.load(path) as arrays:
        np.savez(tmp_path / "z.npz", z=arrays["z_bio"], names=arrays["obs_names"])
        np.savez(tmp_path / "odd.npz", z=arrays["z_bio"], names=np.char.add(arrays["obs_names"], "x"))
        np.savez(tmp_path / "short.npz", z=arrays["z_bio"][:-1], names=arrays["obs_names"])
    assert evaluating.evaluate_embedding(tmp_path / "z.npz", trained.parent / "mosaic.h5mu") == found
    with pytest.raises(InputError, match="240 of 240 cells .* are not in the data"):
        evaluating.evaluate_embedding(tmp_path / "odd.npz", trained.parent / "mosaic.h5mu")
    with pytest.raises(InputError, match="holds z, names; expected z_bio"):
        evaluating.evaluate_embedding(tmp_path / "short.npz", trained.parent / "mosaic.h5mu")
    with pytest.raises(InputError, match="no column 'types' in obs"):
        evaluating.evaluate_embedding(path, trained.parent / "mosaic.h5mu", label_key="types")
    refused = CliRunner().invoke(app, ["evaluate"])
    assert refused.exit_code == 2


def test_held_out_cells_are_scored_and_not_trained_on(tmp_path: Path):
    write_mock(tmp_path / "a.h5ad", tmp_path / "a.yaml", "paired", **SIZES)
    raw = overlay(
        read_config(tmp_path / "a.yaml"), {"optim": {"epochs": 2}, "evaluation": {"figures": False}}
    )
    raw = overlay(raw, {"evaluation": {"holdout": {"adt": {"fraction": 0.3}}}})
    done = run.train(overlay(raw, {"logging": {"run_dir": str(tmp_path / "run")}}))
    hidden = done.assembly.hidden["adt"].cells
    assert hidden.sum() == 72
    assert not done.assembly.source.has["adt"][hidden].any()
    scores = done.metrics["evaluation"]["imputation"]
    assert scores["adt"]["n_cells"] == 72
    assert "30%" in scores["adt"]["held_out"]
    assert scores["rna"]["held_out"] == "validation and test cells, without their RNA"
    saved = yaml.safe_load((tmp_path / "run" / "config.resolved.yaml").read_text())
    assert saved["evaluation"]["holdout"]["adt"]["fraction"] == 0.3

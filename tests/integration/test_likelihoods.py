"""Every likelihood from a configuration to imputed values, on mock data that it is one of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp

from remadom import imputing, run
from remadom.config import build
from remadom.config.load import Raw, overlay
from remadom.data.mock import generate, to_mudata
from remadom.errors import InputError
from remadom.utils.outputs import METRICS

SIZES = {"cells": 160, "genes": 30, "peaks": 40, "proteins": 6}


def arcsinh(counts: np.ndarray) -> np.ndarray:
    return np.arcsinh(counts / 5) - 1.5


def fractions(counts: np.ndarray) -> np.ndarray:
    """From 0 to 1, some exactly: the share of a count of its feature, cut at both ends."""
    share = counts / np.maximum(1, np.quantile(counts, 0.9, axis=0))
    return np.where(share < 0.2, 0, np.minimum(share, 1))


def spread(opened: np.ndarray) -> np.ndarray:
    """Fractions out of zeros and ones: each feature has its own two."""
    return fractions(opened + np.abs(np.sin(np.arange(1.0, opened.shape[1] + 1))) * 0.3)


@pytest.fixture(scope="module")
def mock() -> md.MuData:
    return to_mudata(generate("paired", **SIZES))


def changed(mock: md.MuData, **changes: Callable[[np.ndarray], np.ndarray]) -> dict[str, ad.AnnData]:
    """The modalities with the values of some changed, and without what the mock knows of the truth."""
    parts = {name: mock[name].copy() for name in mock.mod}
    for modality, change in changes.items():
        parts[modality].X = sp.csr_matrix(change(parts[modality].X.toarray()).astype(np.float32))
    return parts


def settings(folder: Path, decoders: Raw) -> Raw:
    return {
        "model": {"latent_bio": 6, "decoders": decoders},
        "optim": {"epochs": 3, "batch_size": 64, "lr": 0.01},
        "evaluation": {
            "holdout": {modality: {"fraction": 0.3} for modality in decoders},
            "figures": False,
            "max_cells": 80,
        },
        "logging": {"run_dir": str(folder / "run")},
    }


CASES = [
    (
        {
            "rna": {"likelihood": "nb"},
            "atac": {"likelihood": "poisson", "lowrank": 4},
            "adt": {"likelihood": "nb_mixture"},
        },
        {},
    ),
    (
        {
            "rna": {"likelihood": "poisson"},
            "atac": {"likelihood": "bernoulli", "depth": True},
            "adt": {"likelihood": "gaussian"},
        },
        {"adt": arcsinh},
    ),
    (
        {
            "rna": {"likelihood": "zero_truncated_nb"},
            "atac": {"likelihood": "beta"},
            "adt": {"likelihood": "gaussian_mixture"},
        },
        {"adt": arcsinh, "atac": spread},
    ),
    ({"adt": {"likelihood": "zero_truncated_poisson"}, "rna": {"likelihood": "beta"}}, {"rna": fractions}),
]


@pytest.mark.parametrize(("decoders", "changes"), CASES)
def test_trains_scores_and_imputes(mock: md.MuData, tmp_path: Path, decoders: Raw, changes: dict):
    parts = changed(mock, **changes)
    done = run.train(settings(tmp_path, decoders), data=parts)
    losses = [row["train"]["elbo.loss"] for row in done.history.history]
    assert losses[-1] < losses[0]
    all_scores = json.loads((done.dir / METRICS).read_text())["evaluation"]["imputation"]
    for modality, decoder in decoders.items():
        measured = parts[modality].X.toarray()
        out = tmp_path / f"{modality}.h5ad"
        imputed = ad.read_h5ad(imputing.impute(done.dir.path, modality, out, parts, samples=1))
        check(decoder["likelihood"], imputed, measured, all_scores[modality])


def check(likelihood: str, imputed: ad.AnnData, measured: np.ndarray, scores: dict) -> None:
    """What imputed values and their scores must be, by likelihood."""
    low, high = imputed.layers["lower"], imputed.layers["upper"]
    assert imputed.shape == measured.shape
    assert np.isfinite(imputed.X).all()
    assert (low <= high).all()
    draws = imputed.layers["draw_1"]
    assert set(scores["baselines"]) == {"mean", "knn", "ridge"}
    assert 0.6 < scores["coverage_90"] <= 1
    if likelihood.startswith("gaussian"):
        assert min(imputed.X.min(), low.min(), draws.min()) < 0
        assert scores["rmse"] < measured.std() * 1.2  # of standardized noise about any constant
        assert scores["scale"] == "values"
    elif likelihood == "beta":
        assert all(values.min() >= 0 and values.max() <= 1 for values in (imputed.X, low, high, draws))
        assert scores["rmse"] < 0.5
    else:
        assert (draws == np.rint(draws)).all()
        assert low.min() >= 0
    if likelihood.startswith("zero_truncated"):
        assert min(imputed.X.min(), draws.min()) >= 1
    else:
        assert np.isfinite(high).all()


def test_held_out_arcsinh_proteins_are_predicted_better_than_by_their_mean(mock: md.MuData, tmp_path: Path):
    raw = overlay(settings(tmp_path, {"adt": {"likelihood": "gaussian"}}), {"optim": {"epochs": 25}})
    done = run.train(raw, data=changed(mock, adt=arcsinh))
    scores = json.loads((done.dir / METRICS).read_text())["evaluation"]["imputation"]["adt"]
    assert scores["rmse"] < 0.95 * scores["baselines"]["mean"]["rmse"]
    assert scores["pearson"] > 0.3
    with pytest.raises(InputError, match="the values of adt are no counts and have no depth"):
        imputing.impute(done.dir.path, "adt", tmp_path / "x.h5ad", changed(mock, adt=arcsinh), depth=100.0)


def test_methylation_is_a_modality_of_fractions(mock: md.MuData, tmp_path: Path):
    data = {"rna": mock["rna"].copy(), "methylation": changed(mock, atac=spread)["atac"]}
    done = build.assemble(settings(tmp_path, {"methylation": {}}), data=data)
    assert done.config.model.decoders["methylation"]["likelihood"] == "beta"
    assert done.config.model.encoders["methylation"]["input"] == "standardized"


def test_fragments_are_counted_where_their_number_is_read(mock: md.MuData, tmp_path: Path):
    thrice = changed(mock, atac=lambda opened: 3 * opened)
    by_likelihood = {}
    for likelihood in ("poisson", "bernoulli"):
        assembly = build.assemble(settings(tmp_path, {"atac": {"likelihood": likelihood}}), data=thrice)
        by_likelihood[likelihood] = assembly.source.rows("atac", np.arange(50)).max()
    assert by_likelihood == {"poisson": 3, "bernoulli": 1}


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        ({}, arcsinh, "adt .*negative values: .*the likelihood poisson_mixture expects counts: .* gaussian"),
        ({}, fractions, "these look like fractions: .* beta by model.decoders.adt.likelihood"),
        ({"decoders": {"adt": {"likelihood": "beta"}}}, None, "these look like counts: choose nb"),
        ({"decoders": {"adt": {"likelihood": "gaussian"}}}, None, "so counts; the likelihood gaussian"),
        (
            {"decoders": {"adt": {"likelihood": "gaussian"}}, "encoders": {"adt": {"input": "clr"}}},
            arcsinh,
            "model.encoders.adt.input: clr expects values from 0 on: .* standardized",
        ),
    ],
)
def test_values_that_are_not_of_the_likelihood_stop_the_run(mock, tmp_path, model, change, message):
    raw = overlay(settings(tmp_path, {"adt": {}}), {"model": model})
    with pytest.raises(InputError, match=message):
        run.train(raw, data=changed(mock, **({} if change is None else {"adt": change})))

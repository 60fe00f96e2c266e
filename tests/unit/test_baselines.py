from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from remadom.data.source import Source
from remadom.eval.baselines import baselines
from remadom.eval.imputation import imputation_metrics


@pytest.fixture
def study():
    """RNA and proteins that follow one latent, and a source in which the last 100 cells lack the proteins."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 3))
    rna = rng.poisson(np.exp(z @ rng.normal(size=(3, 60)) * 0.5 + 1.5))
    adt = rng.poisson(np.exp(z @ rng.normal(size=(3, 8)) * 0.5 + 2))
    data = {"rna": rna, "adt": adt}
    names = [f"c{i}" for i in range(500)]
    whole = Source.open(
        {m: ad.AnnData(sp.csr_matrix(x.astype(np.float32)), obs={"names": names}) for m, x in data.items()}
    )
    hidden = np.arange(500) >= 400
    return whole, whole.hide("adt", hidden), np.flatnonzero(hidden), np.flatnonzero(~hidden), adt


def test_baselines_predict_what_follows_from_the_other_modality(study):
    _, source, cells, train, adt = study
    found = baselines(source, "adt", cells, train)
    assert list(found) == ["mean", "knn", "ridge"]
    assert np.allclose(found["mean"], adt[:400].mean(0))
    scores = {name: imputation_metrics(guess, adt[400:]) for name, guess in found.items()}
    assert scores["mean"]["pearson"] == 0
    assert scores["ridge"]["pearson"] > 0.6
    assert scores["knn"]["pearson"] > 0.5
    assert max(scores["knn"]["rmse"], scores["ridge"]["rmse"]) < scores["mean"]["rmse"]


def test_hidden_values_are_not_seen(study):
    whole, source, cells, train, _ = study
    other = whole.hide("adt", np.arange(500) >= 400)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            baselines(source, "adt", cells, train).values(),
            baselines(other, "adt", cells, np.arange(500)).values(),
            strict=True,
        )
    )


def test_without_a_cell_that_has_both_only_the_mean_is_left(study):
    whole, _, _, _, adt = study
    first = np.arange(500) < 250
    apart = whole.hide("adt", first).hide("rna", ~first)
    found = baselines(apart, "adt", np.flatnonzero(first), np.arange(500))
    assert list(found) == ["mean"]
    assert np.allclose(found["mean"], adt[250:].mean(0))


def test_the_order_of_the_cells_does_not_matter(study):
    _, source, cells, train, _ = study
    turned = cells[::-1]
    for one, other in zip(
        baselines(source, "adt", cells, train).values(),
        baselines(source, "adt", turned, train).values(),
        strict=True,
    ):
        assert np.allclose(one, other[::-1], rtol=1e-4)

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import spearmanr

from remadom.data import hvg, sampler
from remadom.data.hvg import residual_variance, select_genes
from remadom.data.lsi import FittedLSI, fit_lsi
from remadom.data.normalize import clr, tfidf
from remadom.data.peaks import select_peaks
from remadom.data.preprocess import (
    Prepared,
    fit_preprocess,
    preprocess_adt,
    preprocess_atac,
    preprocess_atac_tfidf_lsi,
    preprocess_rna,
)
from remadom.data.settings import DataSettings
from remadom.data.source import Source
from remadom.errors import InputError

Counts = tuple[sp.csr_matrix, np.ndarray]


def gather(counts: sp.csr_matrix) -> Callable[[np.ndarray], sp.csr_matrix]:
    return lambda index: counts[index]


@pytest.fixture(scope="module")
def counts() -> Counts:
    """300 cells x 120 genes of very unequal depth and abundance, in two batches."""
    rng = np.random.default_rng(0)
    mean = rng.gamma(1.0, 1.0, (300, 1)) * rng.gamma(0.3, 1.5, (1, 120)) * rng.gamma(1.0, 1.0, (300, 120))
    mean[:, 5] = 0.0
    return sp.csr_matrix(rng.poisson(mean).astype(np.float32)), rng.integers(0, 2, 300)


@pytest.fixture(scope="module")
def peaks() -> sp.csr_matrix:
    """200 cells x 300 peaks, zeros and ones; the depth varies over the cells, and three types differ."""
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 3, 200)
    openness = np.where(np.arange(300) % 3 == kind[:, None], 0.25, 0.05) * rng.uniform(0.2, 1.8, (200, 1))
    openness[:, 7] = 0.0
    return sp.csr_matrix((rng.random((200, 300)) < openness).astype(np.float32))


# highly variable genes


def brute_force_residual_variance(dense: np.ndarray) -> np.ndarray:
    mu = np.outer(dense.sum(axis=1), dense.sum(axis=0)) / dense.sum()
    deviation = np.sqrt(mu + mu**2 / 100)
    residual = np.divide(dense - mu, deviation, out=np.zeros_like(dense), where=deviation > 0)
    return residual.clip(-np.sqrt(len(dense)), np.sqrt(len(dense))).var(axis=0)


@pytest.mark.parametrize("size", [4096, 37])
@pytest.mark.parametrize("n", [300, 60])
def test_residual_variance_is_that_of_the_dense_residuals(
    counts: Counts, size: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "CELLS_AT_ONCE", size)
    monkeypatch.setattr(hvg, "CELLS_AT_ONCE", size)
    matrix, batches = counts
    found = residual_variance(gather(matrix), np.arange(n), batches[:n])
    for batch in (0, 1):
        expected = brute_force_residual_variance(matrix[:n][batches[:n] == batch].toarray().astype(float))
        assert np.allclose(found[batch], expected, rtol=1e-9 if n == 300 else 2e-4, atol=1e-12)
    assert (found[:, 5] == 0).all()


def planted(n_per_batch: int = 150) -> Counts:
    """Genes 0 to 4 vary within both batches; genes 5 to 9 differ between the batches only."""
    rng = np.random.default_rng(2)
    batches = np.repeat([0, 1], n_per_batch)
    mean = np.full((len(batches), 100), 2.0)
    mean[:, :5] *= np.where(rng.random((len(batches), 1)) < 0.5, 0.2, 3.0)
    mean[batches == 1, 5:10] *= 10
    return sp.csr_matrix(rng.poisson(mean).astype(np.float32)), batches


def test_genes_that_vary_within_batches_are_chosen() -> None:
    matrix, batches = planted()
    cells = np.arange(matrix.shape[0])
    within = select_genes(gather(matrix), cells, batches, n_top=5, flavor="variance")
    assert np.flatnonzero(within.selected).tolist() == [0, 1, 2, 3, 4]
    assert within.n_batches[:5].tolist() == [2] * 5
    assert within.rank[:5].max() < 5
    assert np.isnan(within.rank[50:]).all()
    assert within.how == "variance of Pearson residuals over 2 batches"
    pooled = select_genes(gather(matrix), cells, np.zeros_like(batches), n_top=10, flavor="variance")
    assert np.flatnonzero(pooled.selected).tolist() == list(range(10))


def test_a_batch_of_a_few_cells_does_not_choose() -> None:
    matrix, batches = planted()
    few = sp.csr_matrix(np.random.default_rng(3).poisson(2.0, (4, 100)).astype(np.float32))
    both = sp.vstack([matrix, few], format="csr")
    alone = select_genes(gather(matrix), np.arange(300), batches, n_top=20, flavor="variance")
    beside = select_genes(
        gather(both), np.arange(304), np.r_[batches, [2, 2, 3, 4]], n_top=20, flavor="variance"
    )
    assert np.array_equal(alone.selected, beside.selected)
    only = select_genes(gather(few), np.arange(4), np.array([0, 1, 2, 3]), n_top=20, flavor="variance")
    assert only.selected.sum() == 20
    assert only.n_batches.max() == 1


def test_seurat_v3_is_scanpys(counts: Counts) -> None:
    sc = pytest.importorskip("scanpy")
    pytest.importorskip("skmisc")
    matrix, batches = counts
    before = torch.get_num_threads()
    chosen = select_genes(gather(matrix), np.arange(300), batches, n_top=30)
    assert torch.get_num_threads() == before
    reference = ad.AnnData(matrix, obs=pd.DataFrame({"b": batches}, index=np.arange(300).astype(str)))
    sc.pp.highly_variable_genes(reference, flavor="seurat_v3", n_top_genes=30, batch_key="b")
    assert np.array_equal(chosen.selected, reference.var["highly_variable"])
    assert np.array_equal(chosen.rank, reference.var["highly_variable_rank"], equal_nan=True)
    assert np.array_equal(chosen.n_batches, reference.var["highly_variable_nbatches"])
    assert chosen.how == "seurat_v3 over 2 batches"


def test_without_scanpy_the_variance_is_used_aloud(
    counts: Counts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hvg, "find_spec", lambda name: None)
    matrix, batches = counts
    with caplog.at_level(logging.WARNING):
        chosen = select_genes(gather(matrix), np.arange(300), batches, n_top=30)
    expected = select_genes(gather(matrix), np.arange(300), batches, n_top=30, flavor="variance")
    assert np.array_equal(chosen.selected, expected.selected)
    assert chosen.how == expected.how
    assert "scanpy" in caplog.text


@pytest.mark.parametrize(
    ("n_genes", "word"), [(3, "seurat_v3 needs 20 genes"), (40, "seurat_v3 failed")], ids=["few", "alike"]
)
def test_where_seurat_v3_fails_the_variance_is_used_aloud(
    n_genes: int, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("scanpy")
    pytest.importorskip("skmisc")
    alike = np.tile([[1.0], [3.0]], (20, n_genes))
    alike[:, 1] = 2.0
    matrix = sp.csr_matrix(alike.astype(np.float32))
    with caplog.at_level(logging.WARNING):
        chosen = select_genes(gather(matrix), np.arange(40), np.zeros(40, dtype=int), n_top=2)
    assert chosen.selected.sum() == 2
    assert chosen.how == "variance of Pearson residuals"
    assert word in caplog.text


@pytest.mark.parametrize("flavor", ["variance", "seurat_v3"])
def test_negative_values_choose_no_genes(counts: Counts, flavor: Literal["variance", "seurat_v3"]) -> None:
    matrix = counts[0].copy()
    matrix.data[3] = -1.5
    with pytest.raises(InputError, match=r"values from -1\.5"):
        select_genes(gather(matrix), np.arange(300), counts[1], n_top=5, flavor=flavor)


# RNA in an AnnData


def rna(counts: Counts) -> ad.AnnData:
    matrix, batches = counts
    obs = pd.DataFrame({"batch": batches.astype(str)}, index=[f"c{i}" for i in range(300)])
    return ad.AnnData(matrix.copy(), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(120)]))


def test_preprocess_rna_keeps_counts_beside_normalized_values(counts: Counts) -> None:
    adata = rna(counts)
    genes = preprocess_rna(adata, hvg=25, flavor="variance", batch_key="batch")
    dense = counts[0].toarray()
    kept = genes["highly_variable"].to_numpy()
    assert kept.sum() == 25
    assert adata.var_names.tolist() == genes.index[kept].tolist()
    assert adata.var["highly_variable_nbatches"].min() >= 1
    assert np.array_equal(adata.X.toarray(), dense[:, kept])
    assert np.array_equal(adata.layers["counts"].toarray(), dense[:, kept])
    totals = np.maximum(dense.sum(axis=1, keepdims=True), 1)
    assert sp.issparse(adata.layers["lognorm"])
    assert np.allclose(adata.layers["lognorm"].toarray(), np.log1p(dense * (1e4 / totals))[:, kept])
    adata.X.data[:] = 0
    assert adata.layers["counts"].sum() > 0


def test_preprocess_rna_fits_on_training_cells(counts: Counts) -> None:
    matrix, batches = counts
    changed = matrix.tolil()
    changed[200:, :] = 9.0
    train = np.arange(300) < 200
    selections = [
        preprocess_rna(rna((m, batches)), hvg=25, flavor="variance", train=train)[
            "highly_variable"
        ].to_numpy()
        for m in (matrix, changed.tocsr())
    ]
    assert np.array_equal(*selections)
    everything = preprocess_rna(rna((changed.tocsr(), batches)), hvg=25, flavor="variance")
    assert not np.array_equal(selections[0], everything["highly_variable"])


def test_preprocess_rna_reads_the_layer_that_it_is_told(counts: Counts) -> None:
    adata = rna(counts)
    adata.layers["raw"] = adata.X.copy()
    adata.X = sp.csr_matrix(np.zeros((300, 120), dtype=np.float32))
    preprocess_rna(adata, layer="raw")
    assert np.array_equal(adata.layers["counts"].toarray(), counts[0].toarray())
    assert adata.n_vars == 120
    with pytest.raises(InputError, match=r"layers:row.*layers:raw"):
        preprocess_rna(adata, layer="row")


def test_more_genes_asked_for_than_there_are_keeps_all_and_says_so(
    counts: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    adata = rna(counts)
    with caplog.at_level(logging.INFO):
        preprocess_rna(adata, hvg=500)
    assert adata.n_vars == 120
    assert "all 120 genes" in caplog.text


def test_what_preprocess_rna_refuses(counts: Counts, tmp_path: Path) -> None:
    mixed = rna(counts)
    mixed.var["feature_types"] = ["Gene Expression"] * 60 + ["Peaks"] * 60
    with pytest.raises(InputError, match="several types"):
        preprocess_rna(mixed)
    negative = rna(counts)
    negative.X.data[0] = -1
    with pytest.raises(InputError, match="values from -1 "):
        preprocess_rna(negative)
    with pytest.raises(InputError, match="'batches'"):
        preprocess_rna(rna(counts), hvg=5, batch_key="batches")
    rna(counts).write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(InputError, match="backed"):
        preprocess_rna(backed)
    backed.file.close()


# peaks


def test_open_peaks_are_kept_in_order() -> None:
    n_open = np.array([5, 1, 9, 5, 0, 5])
    assert select_peaks(n_open, 10, min_cells=0, n_top=None).tolist() == [0, 1, 2, 3, 4, 5]
    assert select_peaks(n_open, 10, min_cells=5, n_top=None).tolist() == [0, 2, 3, 5]
    assert select_peaks(n_open, 10, min_cells=0.5, n_top=None).tolist() == [0, 2, 3, 5]
    assert select_peaks(n_open, 10, min_cells=0, n_top=3).tolist() == [0, 2, 3]
    assert select_peaks(n_open, 10, min_cells=6, n_top=3).tolist() == [2]
    with pytest.raises(InputError, match="most open one: in 9"):
        select_peaks(n_open, 10, min_cells=10, n_top=None)


def peaks_in(place: str, peaks: sp.csr_matrix) -> ad.AnnData:
    """Counts of peaks (ones and twos) as ``X``, as a layer or in ``obsm``; the last 50 cells lack them."""
    twice = peaks.copy()
    twice.data[::3] = 2
    obs = pd.DataFrame(
        {"has_atac": np.arange(200) < 150, "has_rna": True}, index=[f"c{i}" for i in range(200)]
    )
    var = pd.DataFrame(index=[f"chr1:{i}-{i + 5}" for i in range(300)])
    if place == "obsm:X_atac":
        adata = ad.AnnData(np.ones((200, 2), dtype=np.float32), obs=obs, obsm={"X_atac": twice})
        adata.uns["X_atac_names"] = var.index.to_numpy()
        return adata
    if place == "X":
        return ad.AnnData(twice, obs=obs, var=var)
    return ad.AnnData(obs=obs, var=var, layers={"atac": twice})


@pytest.mark.parametrize("place", ["X", "layers:atac", "obsm:X_atac"])
def test_preprocess_atac_keeps_open_peaks_as_ones(place: str, peaks: sp.csr_matrix) -> None:
    adata = peaks_in(place, peaks)
    statistics = preprocess_atac(adata, min_cells=15, n_top=100)
    n_open = peaks[:150].toarray().sum(axis=0)
    assert statistics["n_cells"].tolist() == n_open.tolist()
    kept = statistics["kept"].to_numpy()
    assert kept.sum() == 100
    assert n_open[kept].min() >= max(15, n_open[~kept].max())
    attribute, _, name = place.partition(":")
    matrix = adata.X if place == "X" else getattr(adata, attribute)[name]
    assert np.array_equal(matrix.toarray(), peaks.toarray()[:, kept])
    names = adata.uns["X_atac_names"] if attribute == "obsm" else adata.var_names
    assert list(names) == statistics.index[kept].tolist()
    assert Source.open(adata, keys={"atac": place}).features["atac"].tolist() == list(names)


def test_preprocess_atac_can_leave_counts(peaks: sp.csr_matrix) -> None:
    adata = peaks_in("X", peaks)
    before = adata.X.toarray()
    preprocess_atac(adata, binarize=False)
    assert np.array_equal(adata.X.toarray(), before)


# LSI


def test_tfidf_is_its_formula(peaks: sp.csr_matrix) -> None:
    dense = peaks.toarray().astype(float)
    idf = np.random.default_rng(0).random(300)
    totals = dense.sum(axis=1, keepdims=True)
    expected = np.log1p(dense / np.where(totals > 0, totals, 1) * idf * 1e4)
    assert np.allclose(tfidf(peaks, idf).toarray(), expected, rtol=1e-5)


def test_lsi_is_the_singular_value_decomposition_scaled(peaks: sp.csr_matrix) -> None:
    lsi = fit_lsi(gather(peaks), np.arange(200), n_components=2, drop_depth=True)
    totals = peaks.toarray().sum(axis=0)
    assert np.allclose(lsi.idf, np.divide(200, totals, out=np.zeros(300), where=totals > 0))
    assert lsi.idf[7] == 0
    left, values, _ = np.linalg.svd(tfidf(peaks, lsi.idf).toarray().astype(float))
    assert abs(lsi.depth_correlation[0]) > 0.5
    assert lsi.dropped == 1
    scores = left[:, 1:3] * values[1:3]
    expected = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    found = lsi.transform(peaks)
    assert found.shape == (200, 2)
    assert found.dtype == np.float32
    signs = np.sign((found * expected).sum(axis=0))
    assert np.allclose(found, expected * signs, atol=2e-2)
    depth = np.asarray(peaks.sum(axis=1)).ravel()
    assert np.isclose(abs(lsi.depth_correlation[0]), abs(spearmanr(left[:, 0], depth).statistic), atol=1e-3)
    assert len(lsi.depth_correlation) == 3
    assert lsi.variance_ratio.shape == (2,)


def test_lsi_has_the_width_asked_for_whether_or_not_a_component_is_left_out(peaks: sp.csr_matrix) -> None:
    dropped = fit_lsi(gather(peaks), np.arange(200), n_components=6)
    kept = fit_lsi(gather(peaks), np.arange(200), n_components=6, drop_depth=False)
    assert (dropped.dropped, kept.dropped) == (1, 0)
    assert dropped.transform(peaks).shape == kept.transform(peaks).shape == (200, 6)
    for lsi in (dropped, kept):
        scores = lsi.transform(peaks).astype(float)
        assert np.allclose(scores.mean(axis=0), 0, atol=1e-4)
        assert np.allclose(scores.std(axis=0), 1, atol=1e-4)
    correlation = spearmanr(kept.transform(peaks)[:, 0], peaks.sum(axis=1)).statistic
    assert np.isclose(correlation, kept.depth_correlation[0])
    assert "follows depth" in dropped.depth_note
    assert "left out" in dropped.depth_note
    assert "is kept" in kept.depth_note


def test_a_first_component_that_is_not_depth_stays() -> None:
    kind = np.arange(60) % 2
    matrix = sp.csr_matrix(np.where(np.arange(40) % 2 == kind[:, None], 1.0, 0.0).astype(np.float32))
    lsi = fit_lsi(gather(matrix), np.arange(60), n_components=1)
    assert lsi.dropped == 0
    assert lsi.depth_correlation.tolist() == [0, 0]


@pytest.mark.parametrize("n_cells", [8, 200])
def test_too_many_components_name_the_largest_number_possible(peaks: sp.csr_matrix, n_cells: int) -> None:
    few, cells = peaks[:, :12], np.arange(n_cells)
    possible = min(n_cells, 12)
    fit = partial(fit_lsi, gather(few), cells)
    for n_components in (40, possible + 1):
        with pytest.raises(
            InputError, match=f"{n_components} components asked for, at most {possible} possible"
        ):
            fit(n_components=n_components)
    with pytest.raises(InputError, match=f"at most {possible - 1} possible"):
        fit(n_components=possible)
    assert fit(n_components=possible - 1).transform(few).shape == (200, possible - 1)
    assert fit(n_components=possible, drop_depth=False).transform(few).shape == (200, possible)


def test_components_beyond_the_rank_are_not_blown_up(peaks: sp.csr_matrix) -> None:
    twins = sp.hstack([peaks[:, :4]] * 5, format="csr")
    scores = fit_lsi(gather(twins), np.arange(200), n_components=12, drop_depth=False).transform(twins)
    assert np.isfinite(scores).all()
    assert np.abs(scores[:, 6:]).max() < 1e-2


def test_no_open_peak_is_an_error() -> None:
    with pytest.raises(InputError, match="none of 5 peaks"):
        fit_lsi(lambda index: sp.csr_matrix((len(index), 5), dtype=np.float32), np.arange(4), n_components=2)


def test_lsi_draws_cells_where_there_are_many(peaks: sp.csr_matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = partial(fit_lsi, gather(peaks), np.arange(200), n_components=1, drop_depth=False)
    whole = [fit(seed=seed) for seed in (0, 1)]
    assert np.allclose(whole[0].components, whole[1].components, atol=1e-3)
    monkeypatch.setattr("remadom.data.lsi._CELLS_FOR_SVD", 60)
    drawn = [fit(seed=seed) for seed in (0, 1)]
    assert not np.allclose(drawn[0].components, drawn[1].components, atol=1e-2)
    assert np.array_equal(drawn[0].components, fit(seed=0).components)
    assert np.array_equal(drawn[0].idf, whole[0].idf)


def test_lsi_comes_back_from_its_state(peaks: sp.csr_matrix) -> None:
    lsi = fit_lsi(gather(peaks), np.arange(200), n_components=4)
    again = FittedLSI.from_state(saved(lsi.state()))
    assert np.array_equal(again.transform(peaks), lsi.transform(peaks))
    assert again.depth_note == lsi.depth_note


def saved(state: dict) -> dict:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict = torch.load(buffer, weights_only=True)
    return loaded


def test_preprocess_lsi_writes_components_and_what_they_are(peaks: sp.csr_matrix, tmp_path: Path) -> None:
    adata = peaks_in("X", peaks)
    lsi = preprocess_atac_tfidf_lsi(adata, n_components=5, train=np.arange(100))
    expected = fit_lsi(gather(sp.csr_matrix(adata.X)), np.arange(100), n_components=5)
    assert np.array_equal(lsi.components, expected.components)
    assert np.array_equal(adata.obsm["X_lsi"][:150], lsi.transform(adata.X[:150]))
    assert not adata.obsm["X_lsi"][150:].any()
    about = adata.uns["X_lsi"]
    assert about["n_components"] == 5
    assert about["dims"].tolist() == [1, 2, 3, 4, 5]
    assert about["dropped"] == 1
    assert np.array_equal(about["depth_correlation"], lsi.depth_correlation)
    adata.write_h5ad(tmp_path / "lsi.h5ad")
    assert ad.read_h5ad(tmp_path / "lsi.h5ad").uns["X_lsi"]["n_components"] == 5


# proteins


def test_clr_is_its_formula() -> None:
    values = np.array([[0.0, 3.0, 8.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    shifted = values.astype(float) + 1
    geometric = shifted.prod(axis=1, keepdims=True) ** (1 / 3)
    assert np.allclose(clr(values), np.log(shifted / geometric), atol=1e-6)


def test_preprocess_adt_writes_beside_the_counts() -> None:
    values = np.random.default_rng(0).poisson(5, (10, 4)).astype(np.float32)
    alone = ad.AnnData(sp.csr_matrix(values))
    preprocess_adt(alone)
    assert np.array_equal(alone.layers["clr"], clr(values))
    assert np.array_equal(alone.X.toarray(), values)
    beside = ad.AnnData(np.ones((10, 2), np.float32), obsm={"protein_expression": values})
    preprocess_adt(beside)
    assert np.array_equal(beside.obsm["protein_expression_clr"], clr(values))
    assert np.array_equal(beside.obsm["protein_expression"], values)


# a source, as the configuration says


@pytest.fixture
def study(counts: Counts, peaks: sp.csr_matrix) -> ad.AnnData:
    """200 cells: RNA in the first 160, ATAC in the last 140, proteins in all."""
    at = np.arange(200)
    obs = pd.DataFrame(
        {"has_rna": at < 160, "has_atac": at >= 60, "batch": counts[1][:200].astype(str)},
        index=[f"c{i}" for i in range(200)],
    )
    adata = ad.AnnData(counts[0][:200], obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(120)]))
    adata.obsm["X_atac"] = peaks * 3
    adata.uns["X_atac_names"] = [f"chr1:{i}-{i + 5}" for i in range(300)]
    adata.obsm["X_adt"] = np.random.default_rng(5).poisson(4, (200, 6)).astype(np.float32)
    return adata


SETTINGS = DataSettings.model_validate(
    {
        "preprocess": {
            "rna": {"hvg": 25, "flavor": "variance"},
            "atac": {"n_top": 150, "lsi": {"enabled": True, "n_components": 5}},
        }
    }
)
TRAIN = np.arange(0, 200, 2)


def assert_same_source(first: Source, second: Source) -> None:
    index = np.arange(first.n_cells)
    assert first.modalities == second.modalities
    for modality in first.modalities:
        assert first.features[modality].tolist() == second.features[modality].tolist()
        assert (first.rows(modality, index) != second.rows(modality, index)).nnz == 0
    assert list(first.reps) == list(second.reps)
    for modality, rep in first.reps.items():
        assert np.array_equal(rep, second.reps[modality])


def test_fit_and_apply(study: ad.AnnData) -> None:
    source = Source.open(study)
    prepared = fit_preprocess(source, SETTINGS, TRAIN)
    ready = prepared.apply(source)
    assert {modality: len(names) for modality, names in prepared.features.items()} == {
        "rna": 25,
        "atac": 150,
        "adt": 6,
    }
    assert {m: names.tolist() for m, names in ready.features.items()} == prepared.features
    binary = ready.rows("atac", np.arange(60, 200))
    assert set(binary.data) == {1.0}
    assert ready.reps["atac"].shape == (200, 5)
    assert not ready.reps["atac"][:60].any()
    fitted_on = TRAIN[TRAIN >= 60]
    assert np.allclose(ready.reps["atac"][fitted_on].std(axis=0), 1, atol=1e-4)
    totals = ready.rows("rna", TRAIN[TRAIN < 160]).sum(axis=1)
    assert prepared.library["rna"] == float(np.median(np.asarray(totals)))
    assert set(prepared.library) == {"rna", "atac", "adt"}
    batches = source.codes("batch", required=True)[0]
    cells = TRAIN[TRAIN < 160]
    genes = select_genes(gather(study.X), cells, batches[cells], n_top=25, flavor="variance")
    assert prepared.features["rna"] == study.var_names[genes.selected].tolist()
    n_open = study.obsm["X_atac"][fitted_on].astype(bool).sum(axis=0).A1
    kept = select_peaks(n_open, len(fitted_on), min_cells=0, n_top=150)
    lsi = fit_lsi(gather(study.obsm["X_atac"][:, kept].sign()), fitted_on, n_components=5)
    assert prepared.lsi is not None
    assert np.array_equal(prepared.lsi.components, lsi.components)
    assert np.array_equal(ready.reps["atac"][60:], lsi.transform(study.obsm["X_atac"][60:, kept].sign()))
    assert prepared.notes[0] == "rna: 25 of 120 genes by variance of Pearson residuals over 2 batches"
    assert any(
        note.startswith("atac: 150 of 300 peaks") and note.endswith("70 cells") for note in prepared.notes
    )
    assert any("component 1 follows depth" in note for note in prepared.notes)
    assert prepared.notes[-1] == "adt: all 6 features"


def test_only_training_cells_are_looked_at(study: ad.AnnData) -> None:
    changed = study.copy()
    others = np.setdiff1d(np.arange(200), TRAIN)
    noise = np.random.default_rng(8)
    rna, atac = changed.X.toarray(), changed.obsm["X_atac"].toarray()
    rna[others], atac[others] = noise.poisson(3, (100, 120)), noise.poisson(3, (100, 300))
    changed.X, changed.obsm["X_atac"] = sp.csr_matrix(rna), sp.csr_matrix(atac)
    first, second = (fit_preprocess(Source.open(data), SETTINGS, TRAIN) for data in (study, changed))
    assert first.notes == second.notes
    assert first.features == second.features
    assert first.library == second.library
    assert first.lsi is not None
    assert second.lsi is not None
    assert np.array_equal(first.lsi.components, second.lsi.components)


def test_backed_is_the_same(study: ad.AnnData, tmp_path: Path) -> None:
    study.write_h5ad(tmp_path / "study.h5ad")
    sources = [Source.open(tmp_path / "study.h5ad", backed=backed) for backed in (False, True)]
    prepared = [fit_preprocess(source, SETTINGS, TRAIN) for source in sources]
    assert prepared[0].notes == prepared[1].notes
    assert_same_source(*(fitted.apply(source) for fitted, source in zip(prepared, sources, strict=True)))
    sources[1].close()


def test_prepared_comes_back_from_its_state(study: ad.AnnData) -> None:
    source = Source.open(study)
    prepared = fit_preprocess(source, SETTINGS, TRAIN)
    again = Prepared.from_state(saved(prepared.state()))
    assert (again.features, again.library, again.notes) == (
        prepared.features,
        prepared.library,
        prepared.notes,
    )
    assert_same_source(again.apply(source), prepared.apply(source))


def test_features_are_found_by_name_in_other_data(study: ad.AnnData) -> None:
    prepared = fit_preprocess(Source.open(study), SETTINGS, TRAIN)
    shuffled = study[:, np.random.default_rng(0).permutation(120)].copy()
    assert_same_source(prepared.apply(Source.open(study)), prepared.apply(Source.open(shuffled)))
    lost = [name for name in study.var_names if name not in prepared.features["rna"][:7]]
    with pytest.raises(InputError, match=r"rna: the data lacks 7 of the 25 .*\(g\d+, .*, \.\.\.\)"):
        prepared.apply(Source.open(study[:, lost].copy()))


def test_other_data_may_have_fewer_modalities_but_not_others(study: ad.AnnData) -> None:
    both = Source.open(study, modalities=["rna", "adt"])
    whole = Source.open(study)
    ready = fit_preprocess(whole, SETTINGS, None).apply(both)
    assert ready.modalities == ("rna", "adt")
    with pytest.raises(InputError, match=r"atac, which was not trained on.*\[rna, adt\]"):
        fit_preprocess(both, SETTINGS, None).apply(whole)


def test_stored_components_are_used_as_they_are(study: ad.AnnData) -> None:
    stored = study.copy()
    stored.obsm["X_lsi"] = np.random.default_rng(0).normal(size=(200, 7))
    source = Source.open(stored)
    prepared = Prepared.from_state(saved(fit_preprocess(source, SETTINGS, TRAIN).state()))
    assert prepared.lsi is None
    assert "atac: the encoder reads the 7 components that the data has in obsm['X_lsi']" in prepared.notes
    ready = prepared.apply(source)
    assert np.array_equal(ready.reps["atac"][60:], stored.obsm["X_lsi"][60:].astype(np.float32))
    assert not ready.reps["atac"][:60].any()
    with pytest.raises(InputError, match=r"7 components in obsm.*has none there"):
        prepared.apply(Source.open(study))
    stored.obsm["X_lsi"] = stored.obsm["X_lsi"][:, :6]
    with pytest.raises(InputError, match="has 6 components there"):
        prepared.apply(Source.open(stored))
    off = DataSettings()
    assert fit_preprocess(source, off, TRAIN).apply(source).reps == {}


def test_components_given_as_the_matrix_are_left_alone(study: ad.AnnData) -> None:
    study.obsm["X_lsi"] = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32)
    source = Source.open(study, keys={"rna": "X", "atac": "obsm:X_lsi"})
    ready = fit_preprocess(source, SETTINGS, TRAIN).apply(source)
    assert np.array_equal(ready.reps["atac"], source.reps["atac"])
    assert (ready.rows("atac", np.arange(200)) != source.rows("atac", np.arange(200))).nnz == 0


def test_without_settings_nothing_is_left_out(study: ad.AnnData) -> None:
    source = Source.open(study)
    settings = DataSettings.model_validate({"preprocess": {"rna": {"hvg": 999}, "atac": {"binarize": False}}})
    prepared = fit_preprocess(source, settings, None)
    assert_same_source(prepared.apply(source), source)
    assert "rna: all 120 genes (hvg asks for 999)" in prepared.notes
    assert "atac: all 300 peaks" in prepared.notes


def test_a_modality_without_training_cells_is_an_error(study: ad.AnnData) -> None:
    with pytest.raises(InputError, match="atac: none of 50 training cells"):
        fit_preprocess(Source.open(study), SETTINGS, np.arange(50))


def test_settings_of_a_modality_that_the_data_lack_are_named(
    study: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    fit_preprocess(Source.open(study, modalities=["rna", "adt"]), SETTINGS, None)
    assert "data.preprocess.atac has no effect: the data has rna, adt" in caplog.text
    caplog.clear()
    fit_preprocess(Source.open(study, modalities=["rna", "adt"]), DataSettings(), None)
    assert not caplog.text

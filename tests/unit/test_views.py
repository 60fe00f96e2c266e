from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from remadom.data.normalize import clr, lognorm, tfidf
from remadom.data.source import Source
from remadom.data.views import FEW, SCORES, among, views_in, views_of
from remadom.errors import InputError

RNG = np.random.default_rng(0)
CELLS = [f"c{i}" for i in range(12)]


def part(values, cells, names=None, **obs):
    names = [f"g{j}" for j in range(values.shape[1])] if names is None else names
    return ad.AnnData(values, obs=pd.DataFrame(obs, index=pd.Index(cells)), var=pd.DataFrame(index=names))


def counts(n=8, width=60, rate=0.7):
    x = RNG.poisson(rate, (n, width)).astype(np.float32)
    x[:, 0] += 1
    return sp.csr_matrix(x)


def dense(view):
    return view.features if isinstance(view.features, np.ndarray) else view.features.toarray()


def totals(x, axis):
    return np.asarray(x.sum(axis)).ravel()


def test_views_of_a_source_are_normalized_by_the_registry_and_hold_only_cells_that_have_the_modality():
    rna, peaks, proteins = counts(8, 30), counts(8, 40), counts(8, 5)
    data = {
        "rna": part(rna, CELLS[:8]),
        "atac": part(peaks, CELLS[4:]),
        "adt": part(proteins, CELLS[2:10], list("abcde")),
    }
    views = views_of(Source.open(data))
    assert list(views) == ["rna", "atac", "adt"]
    assert views["adt"].names == tuple("abcde")
    names = list(Source.open(data).obs_names)
    assert [names[i] for i in views["atac"].cells] == [c for c in names if c in CELLS[4:]]
    np.testing.assert_array_equal(dense(views["rna"]), lognorm(rna, totals(rna, 1)).toarray())
    np.testing.assert_allclose(dense(views["atac"]), tfidf(peaks, 8 / totals(peaks, 0)).toarray(), rtol=1e-6)
    np.testing.assert_array_equal(dense(views["adt"]), clr(proteins.toarray()))


def test_views_of_some_cells_ascend_and_normalize_within_them():
    peaks = counts(12, 40)
    source = Source.open({"rna": part(counts(12, 30), CELLS), "atac": part(peaks, CELLS)})
    view = views_of(source, np.array([7, 1, 5]))["atac"]
    assert view.cells.tolist() == [1, 5, 7]
    some = peaks[[1, 5, 7]]
    idf = np.divide(3, totals(some, 0), out=np.zeros(40), where=totals(some, 0) > 0)
    np.testing.assert_allclose(dense(view), tfidf(some, idf).toarray(), rtol=1e-6)


def test_any_two_modalities_of_a_file_whatever_their_names(tmp_path):
    rna, activity = counts(8), counts(9)
    parts = {
        "expr": part(rna, CELLS[:8], kind=["x"] * 8),
        "gene_activity": part(activity, CELLS[3:], [f"G{j}" for j in range(60)], kind=["x"] * 9),
    }
    with md.set_options(pull_on_update=False):
        data = md.MuData(parts)
        data.write(tmp_path / "two.h5mu")
    for given in (parts, data, tmp_path / "two.h5mu"):
        views, obs = views_in(given, ["gene_activity", "expr"])
        assert list(views) == ["gene_activity", "expr"]
        assert sorted(obs.index) == sorted(CELLS)
        assert obs.index[views["expr"].cells].tolist() == CELLS[:8]
        assert sorted(obs.index[views["gene_activity"].cells]) == sorted(CELLS[3:])
        assert set(obs["kind"]) == {"x"}
        np.testing.assert_array_equal(dense(views["expr"]), lognorm(rna, totals(rna, 1)).toarray())


SIGNED = RNG.normal(size=(8, SCORES)).astype(np.float32)
WIDE = RNG.random((8, SCORES + 1)).astype(np.float32)
FEW_COUNTS = counts(8, FEW)


@pytest.mark.parametrize(
    ("name", "values", "names", "expected", "ready"),
    [
        ("scores", SIGNED, None, SIGNED, True),
        ("smoothed", WIDE, None, WIDE, False),
        ("topics", FEW_COUNTS, None, FEW_COUNTS.toarray(), True),
        ("prot", FEW_COUNTS, None, clr(FEW_COUNTS.toarray()), False),
        ("open", counts(8, 60), [f"chr1:{j}-{j + 5}" for j in range(60)], "tfidf", False),
        ("peaks", counts(8, 60), None, "tfidf", False),
        ("spliced", counts(8, 60), None, "lognorm", False),
    ],
)
def test_what_a_matrix_is_read_as(name, values, names, expected, ready):
    data = {name: part(values, CELLS[:8], names), "rna": part(counts(8), CELLS[:8])}
    view = views_in(data)[0][name]
    if isinstance(expected, str):
        made = {"lognorm": lambda x: lognorm(x, totals(x, 1)), "tfidf": lambda x: tfidf(x, idf(x))}
        expected = made[expected](values).toarray()
    np.testing.assert_allclose(dense(view), expected, rtol=1e-6)
    assert view.ready == ready
    assert isinstance(view.features, np.ndarray) or not ready


def idf(x):
    return np.divide(len(x.toarray()), totals(x, 0), out=np.zeros(x.shape[1]), where=totals(x, 0) > 0)


def test_the_rule_can_be_overruled():
    data = {"few": part(FEW_COUNTS, CELLS[:8]), "rna": part(WIDE, CELLS[:8])}
    views, _ = views_in(data, kinds={"few": "clr", "rna": "scores"})
    np.testing.assert_array_equal(dense(views["few"]), clr(FEW_COUNTS.toarray()))
    assert views["rna"].ready
    with pytest.raises(InputError, match="rna holds negative or fractional values"):
        views_in(data, kinds={"rna": "lognorm"})
    with pytest.raises(InputError, match="unknown kind 'clt'.*'clr'"):
        views_in(data, kinds={"few": "clt"})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="'fw': did you mean 'few'"):
        views_in(data, kinds={"fw": "clr"})


def test_matrices_of_one_anndata_and_within_a_modality():
    data = part(counts(8), CELLS[:8], has_adt=[True] * 6 + [False] * 2)
    data.layers["spliced"] = counts(8)
    data.obsm["X_adt"] = counts(8, 4).toarray()
    data.obsm["X_pca"] = SIGNED[:, :3]
    views, obs = views_in(data, ["rna", "adt", "spliced", "obsm:X_pca"])
    assert [len(view) for view in views.values()] == [8, 6, 8, 8]
    assert [view.ready for view in views.values()] == [False, False, False, True]
    np.testing.assert_array_equal(dense(views["adt"]), clr(data.obsm["X_adt"][:6]))
    assert list(obs.index) == CELLS[:8]
    assert list(views_in(data)[0]) == ["rna", "adt"]
    inside = views_in({"rna": data, "x": part(counts(8), CELLS[:8])}, ["gex:obsm:X_pca", "x"])[0]
    np.testing.assert_array_equal(inside["gex:obsm:X_pca"].features, SIGNED[:, :3])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["rna", "gene_activiti"], "no modality 'gene_activiti': did you mean 'gene_activity'"),
        (["rna:obsm:X_pca"], "rna has no matrix 'obsm:X_pca': valid: X"),
        (["broken", "rna"], "broken: 1 values are missing or infinite"),
    ],
)
def test_what_cannot_be_seen_is_told(names, message):
    broken = SIGNED.copy()
    broken[2, 3] = np.nan
    data = {
        "rna": part(counts(8), CELLS[:8]),
        "gene_activity": part(counts(8), CELLS[:8]),
        "broken": part(broken, CELLS[:8]),
    }
    with pytest.raises(InputError, match=message):
        views_in(data, names)
    with pytest.raises(InputError, match="no modality or matrix 'adt': valid: X, rna"):
        views_in(data["rna"], ["adt"])


def test_views_among_the_cells_of_another_data_set():
    views, obs = views_in({"rna": part(counts(8), CELLS[:8]), "extra": part(counts(9), CELLS[3:])}, ["extra"])
    wanted = pd.Index([*CELLS[::-1][:5], "unknown"])
    placed = among(views, obs.index, wanted)["extra"]
    assert (np.diff(placed.cells) > 0).all()
    assert wanted[placed.cells].tolist() == CELLS[::-1][:5]
    row = {name: i for i, name in enumerate(obs.index[views["extra"].cells])}
    expected = dense(views["extra"])[[row[name] for name in wanted[placed.cells]]]
    np.testing.assert_array_equal(dense(placed), expected)

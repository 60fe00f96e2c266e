"""Source: the same rows, cells and features from every container, in memory and backed."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata.io import write_elem
from hypothesis import given
from hypothesis import strategies as st

from remadom.data import ondisk, stored
from remadom.data.source import Source
from remadom.errors import InputError

rng = np.random.default_rng(0)


def counts(n_cells: int, n_features: int, density: float = 0.2) -> np.ndarray:
    """Random counts, with an all-zero cell."""
    values = rng.poisson(3, (n_cells, n_features)) * (rng.random((n_cells, n_features)) < density)
    values[1] = 0
    return values.astype(np.float32)


def annotated(
    values: object, prefix: str = "g", names: list[str] | None = None, **parts: object
) -> ad.AnnData:
    n_cells, n_features = values.shape
    obs = pd.DataFrame(index=names or [f"c{i}" for i in range(n_cells)])
    return ad.AnnData(
        X=values, obs=obs, var=pd.DataFrame(index=[f"{prefix}{i}" for i in range(n_features)]), **parts
    )


def mudata(**parts: ad.AnnData) -> md.MuData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return md.MuData(parts)


def write(data: ad.AnnData | md.MuData, path: Path) -> Path:
    """Write with the library of the container, whose own warnings do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".zarr":
            data.write_zarr(path)
        elif isinstance(data, md.MuData):
            data.write(path)
        else:
            data.write_h5ad(path, compression="gzip")
    return path


def shuffled(matrix: np.ndarray) -> sp.csr_matrix:
    """CSR with unsorted indices, every value split over two entries, and a stored zero."""
    rows, columns = matrix.nonzero()
    values = matrix[rows, columns]
    order = np.argsort(rows, kind="stable").reshape(-1)
    twice = np.concatenate([order[::-1], order])
    by_row = twice[np.argsort(rows[twice], kind="stable")]
    data = np.concatenate([values[by_row] / 2, [0]]).astype(np.float32)
    indices = np.concatenate([columns[by_row], [0]])
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows[by_row], minlength=len(matrix)))])
    indptr[-1] += 1
    return sp.csr_matrix((data, indices, indptr), shape=matrix.shape)


STORAGE = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "dense": np.asarray,
    "float64": lambda m: sp.csr_matrix(m.astype(np.float64)),
    "int": lambda m: sp.csr_matrix(m.astype(np.int64)),
    "int dense": lambda m: m.astype(np.int32),
    "sparse array": sp.csr_array,
    "csc array": sp.csc_array,
    "unsorted": shuffled,
}

INDICES = [
    np.array([], dtype=int),
    np.array([39]),
    np.arange(40),
    np.arange(40)[::-1],
    rng.integers(0, 40, 100),
    np.array([3, 3, 3, 38, 0, 38]),
]


def assert_rows(
    source: Source, modality: str, dense: np.ndarray, indices: list[np.ndarray] = INDICES
) -> None:
    """The rows of a source are those of a dense matrix, in canonical CSR."""
    for index in indices:
        rows = source.rows(modality, index)
        assert isinstance(rows, sp.csr_matrix)
        assert rows.dtype == np.float32
        assert rows.shape == (len(index), dense.shape[1])
        assert rows.data.all(), "stored zeros"
        fresh = sp.csr_matrix((rows.data, rows.indices, rows.indptr), shape=rows.shape)
        assert fresh.has_canonical_format
        np.testing.assert_array_equal(rows.toarray(), dense[index])


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
@pytest.mark.parametrize("suffix", ["h5ad", "h5mu", "ann.zarr", "mu.zarr"])
@pytest.mark.parametrize("storage", STORAGE)
def test_rows_equal_brute_force(storage, suffix, backed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ondisk, "BLOCK", 200)
    monkeypatch.setattr(stored, "BLOCK", 200)
    rna = counts(40, 30)
    adata = annotated(STORAGE[storage](rna))
    if suffix in ("h5mu", "mu.zarr"):
        adt = counts(25, 6, 0.8)
        names = [f"c{i}" for i in range(39, 14, -1)]
        path = write(
            mudata(rna=adata, prot=annotated(STORAGE[storage](adt), "p", names)), tmp_path / f"a.{suffix}"
        )
        full = np.zeros((40, 6), dtype=np.float32)
        full[15:] = adt[::-1]
        expected = {"rna": rna, "adt": full}
    else:
        path = write(adata, tmp_path / f"a.{suffix}")
        expected = {"rna": rna}
    source = Source.open(path, backed=backed)
    assert source.modalities == tuple(expected)
    assert list(source.obs_names) == [f"c{i}" for i in range(40)]
    for modality, dense in expected.items():
        assert_rows(source, modality, dense)
        columns, some = np.array([4, 0, 5]), INDICES[-1:]
        chosen = source.select(modality, columns)
        assert_rows(chosen, modality, dense[:, columns], some)
        assert_rows(chosen.select(modality, np.array([2, 0])), modality, dense[:, [5, 4]], some)
        assert_rows(source.binarize(modality), modality, (dense > 0).astype(np.float32), some)
    assert bool(caplog.records) == (backed and "csc" in storage)
    source.close()


@pytest.mark.parametrize("storage", STORAGE)
def test_rows_of_objects_in_memory_leave_them_as_they_are(storage):
    dense = counts(40, 30)
    given_matrix = STORAGE[storage](dense)
    adata = annotated(given_matrix)
    before = adata.X.copy()
    source = Source.open(adata)
    assert_rows(source, "rna", dense)
    source.binarize("rna").rows("rna", np.arange(40))
    if sp.issparse(before):
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(adata.X, name), getattr(before, name))
    if storage in ("csr", "sparse array"):
        assert np.shares_memory(source._matrices["rna"].matrix.data, adata.X.data)


def test_views_and_backed_anndata_objects(tmp_path):
    dense = counts(80, 30)
    adata = annotated(sp.csr_matrix(dense))
    assert_rows(Source.open(adata[40:, ::2]), "rna", dense[40:, ::2])
    for storage in (sp.csr_matrix, np.asarray):
        path = write(annotated(storage(dense[:40])), tmp_path / f"{storage.__name__}.h5ad")
        on_disk = ad.read_h5ad(path, backed="r")
        for backed in (False, True):
            source = Source.open(on_disk, backed=backed)
            assert_rows(source, "rna", dense[:40])
            source.close()
        assert on_disk.X[0:2].shape == (2, 30)
        on_disk.file.close()


def test_values_beyond_two_to_the_31_are_addressed(tmp_path):
    n_cells, n_features = 36_000, 60_000
    path = write(annotated(sp.csr_matrix((n_cells, n_features), dtype=np.float32)), tmp_path / "huge.h5ad")
    with h5py.File(path, "r+") as file:
        group = file["X"]
        for name in ("data", "indices", "indptr"):
            del group[name]
        n_values = n_cells * n_features
        assert n_values > 2**31
        for name, dtype in (("data", "f4"), ("indices", "i4")):  # unwritten chunks take no room
            group.create_dataset(name, shape=n_values, dtype=dtype, chunks=(2**16,))
            group[name][-n_features:] = np.arange(n_features)
        group["indptr"] = np.arange(n_cells + 1) * n_features
    source = Source.open(path, backed=True)
    rows = source.rows("rna", np.array([n_cells - 1, 0])).toarray()
    np.testing.assert_array_equal(rows, [np.arange(n_features), np.zeros(n_features)])
    source.close()


@given(
    lengths=st.lists(st.integers(0, 9), max_size=30),
    gaps=st.lists(st.integers(0, 9), min_size=30, max_size=30),
    gap=st.integers(0, 5),
    most=st.integers(1, 20),
)
def test_runs_cover_every_range_once_within_the_limits(lengths, gaps, gap, most):
    start = np.cumsum([space + length for space, length in zip(gaps, [0, *lengths], strict=False)])[
        : len(lengths)
    ]
    end = start + lengths
    runs = list(ondisk._runs(start, end, gap, most))
    assert [k for first, last in runs for k in range(first, last)] == list(range(len(lengths)))
    for first, last in runs:
        assert last - first == 1 or end[last - 1] - start[first] <= max(gap, most)
        assert (start[first + 1 : last] - end[first : last - 1] <= gap).all()


def test_backed_source_reads_from_several_threads_and_lets_go_of_the_file(tmp_path):
    dense = counts(40, 30)
    path = write(annotated(sp.csr_matrix(dense)), tmp_path / "a.h5ad")
    source = Source.open(path, backed=True)
    chosen = source.select("rna", np.arange(30))
    wrong = []

    def read(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(20):
            index = generator.integers(0, 40, 30)
            if not np.array_equal(chosen.rows("rna", index).toarray(), dense[index]):
                wrong.append(seed)
            if seed == 0:
                source.close()

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert_rows(source, "rna", dense)
    with pytest.raises(OSError, match="r"):
        h5py.File(path, "r+")
    source.close()
    h5py.File(path, "r+").close()
    assert_rows(source, "rna", dense)
    source.close()


def test_file_in_memory_is_closed_after_opening(tmp_path):
    path = write(
        annotated(sp.csr_matrix(counts(40, 30)), obsm={"X_lsi": np.ones((40, 3))}), tmp_path / "a.h5ad"
    )
    source = Source.open(path)
    h5py.File(path, "r+").close()
    np.testing.assert_array_equal(source.stored_rep("X_lsi", "rna"), np.ones((40, 3)))
    h5py.File(path, "r+").close()


@pytest.mark.parametrize(
    "mark",
    [
        lambda m: m,
        lambda m: m.astype(int),
        lambda m: m.astype(float),
        lambda m: np.where(m, "True", "False"),
        lambda m: pd.Categorical(np.where(m, "true", "false")),
        lambda m: pd.array(m, dtype="boolean"),
    ],
)
def test_presence_of_an_anndata_comes_from_its_columns_not_from_zeros(mark):
    rna, atac = counts(40, 30), counts(40, 8, 0.9)
    has = np.arange(40) % 3 > 0
    padded = np.where(has[:, None], atac, np.nan)
    adata = annotated(rna, obsm={"X_atac": padded})
    adata.obs["has_atac"] = mark(has)
    source = Source.open(adata)
    assert source.modalities == ("rna", "atac")
    np.testing.assert_array_equal(source.has["atac"], has)
    assert has[1]
    assert not atac[1].any(), "a measured cell without counts"
    assert source.has["rna"].all()
    assert_rows(source, "atac", np.where(has[:, None], atac, 0))
    assert source.obs_of("rna") is None


def ragged() -> tuple[dict[str, ad.AnnData], np.ndarray]:
    """RNA in c0-c9, ADT in c5-c14, and something else in c14 and c15."""
    values = counts(10, 7, 0.9)
    parts = {
        "rna": annotated(sp.csr_matrix(counts(10, 9)), "g", [f"c{i}" for i in range(10)]),
        "Prot": annotated(sp.csr_matrix(values), "p", [f"c{i}" for i in range(5, 15)]),
        "morphology": annotated(counts(2, 3), "m", ["c14", "c15"]),
    }
    return parts, values


@pytest.mark.parametrize("container", ["mapping", "mudata"])
def test_presence_of_several_parts_is_membership(container, caplog):
    parts, values = ragged()
    source = Source.open(parts if container == "mapping" else mudata(**parts))
    assert source.modalities == ("rna", "adt")
    assert source.ignored == ("morphology",)
    assert source.places == {"rna": "rna:X", "adt": "Prot:X"}
    assert list(source.obs_names) == [f"c{i}" for i in range(15)]
    np.testing.assert_array_equal(source.has["adt"], np.arange(15) >= 5)
    np.testing.assert_array_equal(
        source.rows("adt", [4, 5, 14]).toarray(), [0 * values[0], values[0], values[9]]
    )
    assert list(source.features["adt"]) == [f"p{i}" for i in range(7)]
    assert ("left out" in caplog.text) == (container == "mudata"), "c15 has a modality, but none that is used"
    only = Source.open(parts, modalities=["adt"])
    assert list(only.obs_names) == [f"c{i}" for i in range(5, 15)]
    assert only.ignored == ("rna", "morphology")
    np.testing.assert_array_equal(only.rows("adt", np.arange(10)).toarray(), values)


def test_cells_without_a_modality_in_use_are_left_out_of_an_anndata(caplog):
    adata = annotated(counts(6, 4), obsm={"X_adt": counts(6, 3)})
    adata.obs["has_rna"] = [True, True, False, True, True, True]
    adata.obs["has_adt"] = [True, True, True, False, False, False]
    source = Source.open(adata, modalities=["rna"])
    assert list(source.obs_names) == ["c0", "c1", "c3", "c4", "c5"]
    np.testing.assert_array_equal(source.rows("rna", [2]).toarray(), adata.X[[3]])
    assert "1 of 6 cells" in caplog.text
    assert list(Source.open(adata).obs_names) == list(adata.obs_names)


def find(adata: ad.AnnData, **options: object) -> dict[str, str]:
    return dict(Source.open(adata, **options).places)


def test_matrices_of_one_anndata_are_found():
    main, extra = counts(6, 4), counts(6, 3)
    assert find(annotated(main)) == {"rna": "X"}
    assert find(
        annotated(main, layers={"counts": main}, obsm={"protein_expression": extra, "X_pca": extra})
    ) == {
        "rna": "layers:counts",
        "adt": "obsm:protein_expression",
    }
    peaks = annotated(main)
    peaks.var_names = [f"chr1{'-:'[i % 2]}{i}00-{i}99" for i in range(4)]
    assert find(peaks) == {"atac": "X"}
    proteins = annotated(main)
    proteins.uns["modality"] = "Protein"
    assert find(proteins) == {"adt": "X"}
    typed = annotated(main)
    typed.var["feature_types"] = "Peaks"
    assert find(typed) == {"atac": "X"}
    odd = annotated(main)
    odd.var["feature_types"] = ["gene", "gene", "spike", "spike"]
    assert find(odd) == {"rna": "X"}


@pytest.mark.parametrize("suffix", [None, "h5ad", "zarr", "null.h5ad"])
def test_anndata_without_a_main_matrix(suffix, tmp_path):
    peaks = counts(6, 3)
    adata = ad.AnnData(obs=pd.DataFrame(index=list("abcdef")), obsm={"X_atac": peaks})
    data = adata if suffix is None else write(adata, tmp_path / f"a.{suffix}")
    if suffix == "null.h5ad":
        with h5py.File(data, "r+") as file:
            write_elem(file, "X", None)
    source = Source.open(data)
    with pytest.raises(InputError, match=r"no matrix 'X' in the data: valid: obsm:X_atac$"):
        Source.open(data, keys={"rna": "X"})
    assert source.places == {"atac": "obsm:X_atac"}
    np.testing.assert_array_equal(source.rows("atac", np.arange(6)).toarray(), peaks)


@pytest.mark.parametrize("suffix", [None, "h5mu", "zarr"])
def test_parts_of_a_mudata_keep_their_order(suffix, tmp_path):
    parts = {name: annotated(counts(6, 3), name) for name in ("z", "rna", "a")}
    for number, part in enumerate(parts.values()):
        part.obs["place"] = number
    del parts["rna"].obs["place"]
    data = mudata(**parts)
    source = Source.open(data if suffix is None else write(data, tmp_path / f"a.{suffix}"))
    assert source.ignored == ("z", "a")
    assert (source.obs["place"] == 0).all()


@pytest.mark.parametrize("keys", [None, {"adt": "X", "rna": "X"}])
def test_mixed_feature_types_split_one_matrix(keys):
    values = counts(40, 7)
    adata = annotated(sp.csr_matrix(values))
    adata.var["feature_types"] = pd.Categorical(
        [
            "Antibody Capture",
            "Gene Expression",
            "Gene Expression",
            "Custom",
            "Antibody Capture",
            "Custom",
            "Custom",
        ]
    )
    source = Source.open(adata, keys=keys)
    assert source.modalities == ("rna", "adt")
    assert source.ignored == ("Custom",)
    assert list(source.features["rna"]) == ["g1", "g2"]
    assert_rows(source, "rna", values[:, [1, 2]])
    assert_rows(source, "adt", values[:, [0, 4]])


@pytest.mark.parametrize("suffix", [None, "h5ad", "zarr"])
def test_names_of_obsm_columns(suffix, tmp_path):
    frame = pd.DataFrame(counts(6, 2), index=[f"c{i}" for i in range(6)], columns=["CD3", "CD4"])
    adata = annotated(
        counts(6, 4), obsm={"X_adt": frame, "X_atac": sp.csr_matrix(counts(6, 3)), "other": counts(6, 2)}
    )
    adata.uns["X_atac_names"] = np.array(["p1", "p2", "p3"])
    data = adata if suffix is None else write(adata, tmp_path / f"a.{suffix}")
    source = Source.open(data)
    assert list(source.features["adt"]) == ["CD3", "CD4"]
    assert list(source.features["atac"]) == ["p1", "p2", "p3"]
    np.testing.assert_array_equal(source.rows("adt", np.arange(6)).toarray(), frame.to_numpy())
    named = Source.open(data, keys={"adt": "obsm:other"})
    assert named.modalities == ("adt",)
    assert list(named.features["adt"]) == ["adt_0", "adt_1"]


@pytest.mark.parametrize("from_file", [False, True])
def test_keys_of_a_mudata(from_file, tmp_path):
    parts, _ = ragged()
    parts["rna"].layers["raw"] = sp.csr_matrix(counts(10, 9))
    parts["rna"].obsm["tags"] = counts(10, 2)
    data = mudata(**parts)
    if from_file:
        data = write(data, tmp_path / "a.h5mu")
    assert find(data, keys={"rna": "layers:raw", "adt": "Prot:X"}) == {
        "rna": "rna:layers:raw",
        "adt": "Prot:X",
    }
    source = Source.open(data, keys={"adt": "rna:obsm:tags"})
    assert source.ignored == ("Prot", "morphology")
    np.testing.assert_array_equal(source.rows("adt", np.arange(10)).toarray(), parts["rna"].obsm["tags"])
    assert find(data, keys={"atac": "morphology:X"}) == {"atac": "morphology:X"}
    parts["rna"].layers["counts"] = parts["rna"].X
    assert find(parts) == {"rna": "rna:layers:counts", "adt": "Prot:X"}


def test_obs_is_merged_and_conflicts_are_told(caplog):
    parts, _ = ragged()
    del parts["morphology"]
    rna, adt = parts["rna"].obs, parts["Prot"].obs
    rna["batch"] = pd.Categorical(["a"] * 10, categories=["a", "z"])
    adt["batch"] = pd.Categorical(["a"] * 3 + ["b"] * 7)
    rna["depth"], adt["depth"] = np.arange(10), np.arange(5, 15)
    adt["truth"] = True
    rna["type"] = ["T", None] * 5
    adt["type"] = ["B"] * 10
    data = mudata(**parts)
    data.obs["study"] = np.arange(15) // 5
    data.obs["rna:batch"] = "copy"
    source = Source.open(data)
    assert list(source.obs.columns) == ["study", "batch", "depth", "type", "truth"]
    assert list(source.obs["batch"]) == ["a"] * 10 + ["b"] * 5
    assert isinstance(source.obs["batch"].dtype, pd.CategoricalDtype)
    assert source.obs["depth"].dtype == np.int64
    np.testing.assert_array_equal(source.obs["depth"], np.arange(15))
    types = source.obs["type"]
    assert types["c6"] == "T"
    assert types["c5"] == types["c7"] == types["c14"] == "B"
    assert pd.isna(types["c1"])
    assert source.obs["truth"].isna().sum() == 5
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "modalities disagree in obs about: batch (2 cells), type (2 cells); the first modality was taken"
    ]
    own = source.obs_of("adt")
    assert list(own.index) == list(source.obs_names)
    assert own["batch"].isna().sum() == 5


def test_changes_make_new_sources():
    values = counts(40, 6, 0.9)
    source = Source.open(annotated(counts(40, 5), obsm={"X_adt": values}))
    rep = np.ones((40, 2), dtype=np.float64)
    hidden_cells = np.arange(40) < 10
    changed = (
        source.with_rep("adt", rep).hide("adt", hidden_cells).select("adt", np.array([5, 1])).binarize("adt")
    )
    shown = np.where(hidden_cells[:, None], 0, values[:, [5, 1]] > 0)
    assert_rows(changed, "adt", shown.astype(np.float32))
    assert changed.reps["adt"].dtype == np.float32
    np.testing.assert_array_equal(changed.reps["adt"], np.where(hidden_cells[:, None], 0, rep))
    assert list(changed.features["adt"]) == ["adt_5", "adt_1"]
    assert_rows(source, "adt", values)
    assert not source.reps
    assert source.has["adt"].all()
    nothing_left = changed.hide("rna", hidden_cells)
    assert nothing_left.n_cells == 40
    assert not nothing_left.rows("rna", np.arange(10)).nnz


@pytest.mark.parametrize("suffix", [None, "h5mu", "zarr"])
def test_stored_representation(suffix, tmp_path):
    parts, _ = ragged()
    lsi = rng.normal(size=(10, 3))
    parts["Prot"].obsm["X_lsi"] = lsi
    data = mudata(**parts)
    data = data if suffix is None else write(data, tmp_path / f"a.{suffix}")
    source = Source.open(data, modalities=["rna", "adt"])
    assert source.stored_rep("X_lsi", "rna") is None
    hidden = source.hide("adt", source.obs_names == "c14")
    expected = np.zeros((15, 3), dtype=np.float32)
    expected[5:14] = lsi[:9]
    np.testing.assert_array_equal(hidden.stored_rep("X_lsi", "adt"), expected)
    assert not source.reps
    encoded = Source.open(data, keys={"adt": "Prot:obsm:X_lsi"})
    np.testing.assert_array_equal(encoded.reps["adt"], lsi.astype(np.float32))


def test_codes():
    adata = annotated(counts(4, 3))
    adata.obs["batch"] = pd.Categorical(["z", "a", "z", "a"], categories=["z", "unused", "a"])
    adata.obs["day"] = [10, 9, 9, 10]
    adata.obs["word"] = ["b", "a", "b", "a"]
    source = Source.open(adata)
    for key, codes, names in [
        ("batch", [0, 1, 0, 1], ("z", "a")),
        ("day", [1, 0, 0, 1], ("9", "10")),
        ("word", [1, 0, 1, 0], ("a", "b")),
        ("none", [0, 0, 0, 0], ("all",)),
    ]:
        found, found_names = source.codes(key, required=False)
        assert found.dtype == np.int64
        assert (found.tolist(), found_names) == (codes, names)
    with pytest.raises(InputError, match="no column 'bacth' in obs: did you mean 'batch'"):
        source.codes("bacth", required=True)


def test_values():
    adata = annotated(counts(4, 3))
    adata.obs["time"] = [1, 2, 3, 4]
    adata.obs["text"] = pd.Categorical(["1.5", "2", "2", "1e1"])
    adata.obs["gaps"] = [1.0, np.nan, 2.0, 3.0]
    adata.obs["empty"] = np.nan
    adata.obs["day"] = ["d1", "d2", "d3", "d4"]
    adata.obs["date"] = pd.to_datetime(["2020-01-01"] * 4)
    adata.obs["infinite"] = [1.0, np.inf, 2.0, 3.0]
    source = Source.open(adata)
    assert source.values("time", required=True).dtype == np.float32
    np.testing.assert_array_equal(source.values("text", required=True), np.float32([1.5, 2, 2, 10]))
    np.testing.assert_array_equal(source.values("gaps", required=False), np.float32([1, np.nan, 2, 3]))
    assert source.values("empty", required=False) is None
    assert source.values("nothing", required=False) is None
    for key in ("day", "date", "infinite"):
        with pytest.raises(InputError, match=f"obs\\['{key}'\\] holds .*expected numbers"):
            source.values(key, required=False)
    with pytest.raises(InputError, match="no column 'tme' in obs: did you mean 'time'"):
        source.values("tme", required=True)


def test_positions_outside_of_the_source_are_refused():
    source = Source.open(annotated(counts(4, 3)))
    for index in ([4], [-1]):
        with pytest.raises(IndexError, match="source of 4 cells"):
            source.rows("rna", index)
    assert repr(source) == "Source(4 cells; rna: 3 features in 4 cells)"

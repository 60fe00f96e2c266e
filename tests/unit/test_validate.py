"""Bad input: each kind is refused, and the message says what was found and what to do."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from remadom.data.source import Source
from remadom.data.validate import validate_dims, validate_values
from remadom.errors import InputError


def adata(n_cells: int = 6, n_features: int = 4, **parts: object) -> ad.AnnData:
    values = np.arange(n_cells * n_features, dtype=np.float32).reshape(n_cells, n_features)
    cells = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    return ad.AnnData(values, cells, pd.DataFrame(index=[f"g{i}" for i in range(n_features)]), **parts)


def mdata(**parts: ad.AnnData) -> md.MuData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return md.MuData(parts)


def write_h5mu(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mdata(rna=adata()).write(path)


def sparse_h5ad(path: Path) -> None:
    data = adata()
    data.X = sp.csr_matrix(data.X)
    data.write_h5ad(path)


def overwrite(path: Path, name: str, change: Callable[[np.ndarray], object]) -> None:
    sparse_h5ad(path)
    with h5py.File(path, "r+") as file:
        values = change(file[f"X/{name}"][:])
        del file[f"X/{name}"]
        file[f"X/{name}"] = values


def edit(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        sparse_h5ad(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def truncated(path: Path) -> None:
    sparse_h5ad(path)
    path.write_bytes(path.read_bytes()[:-3000])


def damaged_chunk(path: Path) -> None:
    data = adata(400, 40)
    data.X = sp.csr_matrix(data.X)
    data.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + 10 : chunk.byte_offset + chunk.size] = bytes(chunk.size - 10)
    path.write_bytes(content)


def damaged_zarr_chunk(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata(400, 40).write_zarr(path)
    chunks = [p for p in (path / "X").rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr"))]
    for chunk in chunks:
        chunk.write_bytes(b"damaged" * 5)


def no_obs(path: Path) -> None:
    write_h5mu(path)
    with h5py.File(path, "r+") as file:
        del file["mod/rna/obs"]


def link_to_another_file(file: h5py.File) -> None:
    file["obsm/X_atac"] = h5py.ExternalLink("/etc/other.h5", "/X")


def data_in_another_file(file: h5py.File) -> None:
    del file["X"]
    file.create_dataset("X", (6, 4), "f4", external=[("/etc/hostname", 0, 96)])


def virtual_data(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((6, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "X", (6, 4))
    file["layers"].create_virtual_dataset("counts", layout)


FILES: list[tuple[str, Callable[[Path], object] | None, str]] = [
    ("missing.h5ad", None, r"no such file: .*missing.h5ad \(did you mean 'missing1.h5ad'"),
    ("a.loom", Path.touch, r"the suffix is '.loom', expected one of .h5ad, .h5mu, .zarr"),
    ("a", Path.mkdir, r"the suffix is ''"),
    ("a.h5ad", Path.touch, "not an HDF5 file .*empty.*copy or download it again"),
    ("a.h5ad", lambda p: p.write_text("gene,cell\n"), "not an HDF5 file .*starts b'gene,cel'"),
    ("a.h5ad", lambda p: p.write_bytes(gzip.compress(b"x")), "gzip-compressed.*gunzip"),
    ("a.h5ad", truncated, "cannot be opened .*truncated.*copy or download it again"),
    ("a.h5ad", damaged_chunk, "cannot be read to the end .*damaged"),
    ("a.zarr", damaged_zarr_chunk, "cannot be read to the end .*damaged"),
    ("a.h5ad", Path.mkdir, "is a folder, expected a file; a zarr store must be named .zarr"),
    ("a.h5ad", write_h5mu, "holds a MuData.*rename it to a.h5mu"),
    ("a.h5mu", sparse_h5ad, "holds an AnnData.*rename it to a.h5ad"),
    (
        "a.h5ad",
        lambda p: h5py.File(p, "w").close(),
        "neither an AnnData nor a MuData .*found at the top: nothing",
    ),
    ("a.zarr", Path.mkdir, "a folder but not a zarr store"),
    ("a.zarr", Path.touch, "is a file, expected a folder"),
    ("a.zarr", lambda p: (p.mkdir(), (p / "zarr.json").write_text("{")), "cannot be opened as a zarr group"),
    ("a.h5mu", no_obs, "mod/rna/obs is missing, expected a data frame"),
    ("a.h5ad", edit(lambda f: f["obs"].pop("_index")), "obs is incomplete .*'_index'"),
    ("a.h5ad", edit(lambda f: f["obs"].attrs.pop("encoding-type")), "obs is written by an old anndata"),
    ("a.h5ad", edit(link_to_another_file), "/obsm/X_atac is a link to or in another file, which is refused"),
    ("a.h5ad", edit(data_in_another_file), "/X is a data set that is stored to or in another file"),
    ("a.h5ad", edit(virtual_data), "/layers/counts is a data set that is stored"),
    ("a.h5ad", edit(lambda f: f["X"].attrs.modify("shape", [6, 9])), r"X is \(6, 9\), expected \(6, 4\)"),
    ("a.h5ad", edit(lambda f: f["X"].attrs.modify("shape", [7, 4])), "7 pointers, expected 8"),
    ("a.h5ad", edit(lambda f: f["X"].attrs.modify("encoding-type", "coo")), "X is coo, expected an array"),
    ("a.h5ad", edit(lambda f: f["X"].pop("data")), "not a whole sparse matrix"),
    ("a.h5ad", lambda p: overwrite(p, "indices", lambda v: v + 1), "has the index 4, expected 0 to 3"),
    ("a.h5ad", lambda p: overwrite(p, "indices", lambda v: v - 1), "has the index -1, expected 0 to 3"),
    ("a.h5ad", lambda p: overwrite(p, "indices", lambda v: v / 2), "the indices are no integers"),
    ("a.h5ad", lambda p: overwrite(p, "indptr", lambda v: v[::-1]), "do not ascend from 0"),
    ("a.h5ad", lambda p: overwrite(p, "indptr", lambda v: v * 2), "do not ascend from 0"),
    (
        "a.h5ad",
        lambda p: overwrite(p, "data", lambda v: v.astype("S4")),
        "values of type .S4, expected numbers",
    ),
]


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
@pytest.mark.parametrize(("name", "make", "message"), FILES)
def test_files_that_cannot_be_read(name, make, message, backed, tmp_path):
    path = tmp_path / name
    if make is None:
        (tmp_path / "missing1.h5ad").touch()
    else:
        make(path)
    with pytest.raises(InputError, match=message):
        Source.open(path, backed=backed).rows("rna", np.arange(6))
    if path.is_file() and h5py.is_hdf5(path) and make is not truncated:
        h5py.File(path, "r+").close()


def broken(indices: list[int], indptr: list[int]) -> sp.csr_matrix:
    matrix = sp.csr_matrix((3, 4), dtype=np.float32)
    matrix.data = np.ones(len(indices), dtype=np.float32)
    matrix.indices, matrix.indptr = np.array(indices, dtype=np.int32), np.array(indptr, dtype=np.int32)
    return matrix


def with_x(matrix: object) -> ad.AnnData:
    data = ad.AnnData(obs=pd.DataFrame(index=list("abc")), var=pd.DataFrame(index=list("wxyz")))
    data.layers["counts"] = np.zeros((3, 4))
    data.layers._data["counts"] = matrix
    return data


def named_twice(of: str) -> ad.AnnData:
    data = adata()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if of == "cell":
            data.obs_names = ["a", "b", "a", "b", "e", "f"]
        else:
            data.var_names = ["x", "y", "x", "z"]
    return data


def marked(**columns: list[object]) -> ad.AnnData:
    data = adata(obsm={"X_adt": np.ones((6, 2))})
    for name, values in columns.items():
        data.obs[name] = values
    return data


def with_names(names: list[str]) -> ad.AnnData:
    data = adata(obsm={"X_adt": np.ones((6, 2))})
    data.uns["X_adt_names"] = names
    return data


OBJECTS: list[tuple[object, dict[str, object], str]] = [
    (3, {}, "the data is a int, expected a path, an AnnData"),
    ({"rna": 3}, {}, r"data\['rna'\] is a int, expected an AnnData"),
    (
        named_twice("cell"),
        {},
        r"adata: cell names that occur more than once: 2 \(such as 'a', 'b'\).*obs_names_make_unique",
    ),
    ({"rna": named_twice("cell")}, {}, r"data\['rna'\]: cell names"),
    (
        named_twice("feature"),
        {},
        r"rna \(X\): feature names that occur more than once: 1 .*'x'.*var_names_make_unique",
    ),
    (adata(1), {}, "the data has one cell, expected at least two"),
    ({"rna": adata(), "adt": adata(0)}, {}, "adt: no cell was measured in it"),
    ({"rna": adata(), "adt": adata(6, 0)}, {}, "adt: adt:X has no features"),
    (
        {"foo": adata(), "bar": adata()},
        {},
        r"no known modality \(found: foo, bar; known: rna, atac, adt, methylation\).*rna=foo:X",
    ),
    ({"foo": adata()}, {"keys": {"rna": "X"}}, "foo: none is known as rna; .* for example rna=<name>:X"),
    ({"prot": adata(), "cite": adata()}, {}, "prot and cite could all be adt"),
    (ad.AnnData(obs=pd.DataFrame(index=["a", "b"])), {}, "no known modality"),
    (adata(), {"modalities": ["rna", "adt"]}, "asks for 'adt', the data has rna; .*data.keys.adt"),
    (adata(), {"modalities": ["rn"]}, "unknown modality 'rn': did you mean 'rna'"),
    (adata(), {"keys": {"gex": "X"}}, "unknown modality 'gex'"),
    (
        adata(layers={"counts": np.ones((6, 4))}),
        {"keys": {"rna": "layers:cuonts"}},
        r"keys.rna: no matrix 'layers:cuonts' in the data: did you mean 'layers:counts'\? \(valid: X, layers:co",
    ),
    ({"rna": adata()}, {"keys": {"rna": "rna:Y"}}, "no matrix 'rna:Y' in the data: did you mean 'rna:X'"),
    (with_x(broken([0, 9], [0, 1, 2, 2])), {}, "has the index 9, expected 0 to 3"),
    (with_x(broken([0, -1], [0, 1, 2, 2])), {}, "has the index -1, expected 0 to 3"),
    (with_x(broken([0, 1], [0, 2, 1, 2])), {}, "do not ascend from 0 to its 2 values"),
    (with_x(broken([0, 1], [0, 1, 2, 5])), {}, "do not ascend from 0 to its 2 values"),
    (with_x(np.full((3, 4), "a", dtype=object)), {}, "values of type object, expected numbers"),
    (with_x(np.ones((3, 4), dtype=complex)), {}, "values of type complex128, expected numbers"),
    (
        marked(has_adt=[True, "yes", "no", True, True, True]),
        {},
        r"has_adt'\] is neither true nor false for 2 of 6 cells .*first: 'yes' of cell 'c1'",
    ),
    (marked(has_adt=[True, None, True, True, True, True]), {}, "neither true nor false for 1 of 6 cells"),
    (marked(has_adt=[False] * 6), {}, "adt: no cell was measured in it"),
    (
        marked(has_adt=[False] * 4 + [True] * 2, has_rna=[True] + [False] * 5),
        {},
        "3 of 6 cells have no modality at all .first: 'c1', 'c2', 'c3'",
    ),
    (with_names(["only"]), {}, "has 1 names, .* 2 columns"),
]


@pytest.mark.parametrize(("data", "options", "message"), OBJECTS)
def test_objects_that_cannot_be_used(data, options, message):
    with pytest.raises(InputError, match=message):
        Source.open(data, **options)


def test_representation_with_missing_values():
    data = adata(obsm={"X_lsi": np.array([[0.0], [np.nan], [0], [0], [np.inf], [0]])})
    with pytest.raises(
        InputError, match=r"'X_lsi'. is missing or infinite for 2 of 6 measured cells .first: 'c1'"
    ):
        Source.open(data).stored_rep("X_lsi", "rna")


def test_groups_with_missing_values():
    data = adata()
    data.obs["batch"] = ["a", None, "b", "b", "a", None]
    with pytest.raises(InputError, match=r"'batch'. has no value for 2 of 6 cells .first: 'c1'"):
        Source.open(data).codes("batch", required=False)


def counted(values: np.ndarray) -> Source:
    return Source.open(
        {
            "rna": adata(len(values)),
            "adt": ad.AnnData(
                sp.csr_matrix(values),
                pd.DataFrame(index=[f"c{i}" for i in range(len(values))]),
                pd.DataFrame(index=["CD3", "CD4"]),
            ),
        }
    )


@pytest.mark.parametrize("at_once", [2, 100])
def test_counts_that_are_none(at_once, monkeypatch):
    monkeypatch.setattr("remadom.data.sampler.CELLS_AT_ONCE", at_once)
    values = np.ones((7, 2))
    source = counted(values)
    validate_values(source, "adt", support="counts")
    values[1] = [0.5, 2.25]
    values[4, 1] = -2
    values[5] = [np.nan, np.inf]
    values[6, 0] = 1.5
    source = counted(values)
    with pytest.raises(InputError) as caught:
        validate_values(source, "adt", support="counts")
    assert str(caught.value) == (
        "adt (adt:X): missing values: 1, in 1 of 7 cells (first: nan of feature 'CD3' in cell 'c5'); "
        "infinite values: 1, in 1 of 7 cells (first: inf of feature 'CD4' in cell 'c5'); "
        "negative values: 1, in 1 of 7 cells (first: -2 of feature 'CD4' in cell 'c4'); "
        "fractional values: 3, in 2 of 7 cells (first: 0.5 of feature 'CD3' in cell 'c1'); "
        "remove those cells or features, or write 0 where nothing was counted; "
        "the model expects counts: these look like normalized values (arcsinh, CLR or the like): "
        "choose raw counts by data.keys.adt, for example layers:counts, or gaussian or gaussian_mixture by "
        "model.decoders.adt.likelihood"
    )
    with pytest.raises(
        InputError, match=r"^adt .adt:X.: negative values: 1, in 1 of 3 cells .*CD4' in cell 'c4'.; th"
    ):
        validate_values(source, "adt", np.array([0, 1, 4]), support="events")
    validate_values(source, "adt", np.array([6, 4, 1, 1]), support=None)
    with pytest.raises(InputError, match=r"X.: fractional values: 2, in 2 of 3 cells"):
        validate_values(source, "adt", np.array([6, 0, 6]), support="counts")
    validate_values(source.hide("adt", np.arange(7) > 0), "adt", support="counts")


COUNTED = np.array([[0.0, 3.0], [1.0, 250.0]])
ARCSINH = np.array([[-0.5, 3.0], [1.0, 2.5]])
FRACTION = np.array([[0.0, 0.25], [1.0, 0.5]])
LOGGED = np.array([[0.0, 2.5], [1.0, 0.5]])


@pytest.mark.parametrize(
    ("support", "values", "message"),
    [
        (
            "counts",
            ARCSINH,
            "raw counts by data.keys.adt, .* or gaussian or gaussian_mixture by model.decoders.adt.l",
        ),
        (
            "counts",
            FRACTION,
            "expects counts: these look like fractions: .* or beta by model.decoders.adt.likelihood",
        ),
        (
            "counts",
            LOGGED,
            "normalized values: choose raw counts by .*, or gaussian by model.decoders.adt.likelihood",
        ),
        ("events", ARCSINH, "expects values from 0 on: .* gaussian or gaussian_mixture by model.decoders"),
        ("fractions", ARCSINH, "expects fractions from 0 to 1: .*: choose gaussian or gaussian_mixture by"),
        ("fractions", LOGGED, "above one values: 1, .*: choose gaussian by"),
        (
            "fractions",
            COUNTED,
            "above one values: 2, .*: these look like counts: choose nb, .* or nb_mixture by",
        ),
        (
            "real",
            COUNTED,
            "all values are whole numbers from 0 to 250, so counts; the likelihood gaussian expects",
        ),
        ("counts", COUNTED, None),
        ("events", COUNTED, None),
        ("events", LOGGED, None),
        ("real", ARCSINH, None),
        ("real", LOGGED, None),
        ("real", FRACTION, None),
        ("real", np.rint(FRACTION), None),
        ("fractions", FRACTION, None),
        ("fractions", np.rint(FRACTION), None),
        (None, COUNTED, None),
        (None, ARCSINH, None),
    ],
)
def test_the_wrong_likelihood_is_told_which_is_right(support, values, message):
    source = counted(values)
    if message is None:
        validate_values(source, "adt", support=support, reader="the likelihood gaussian")
        return
    with pytest.raises(InputError, match=message):
        validate_values(source, "adt", support=support, reader="the likelihood gaussian")


def test_every_wrong_size_is_in_one_message():
    data = adata(6, 4, obsm={"X_atac": np.ones((6, 5)), "X_adt": np.ones((6, 2))})
    source = Source.open(data).with_rep("atac", np.ones((6, 3)))
    validate_dims(source, {"rna": 4, "atac": 3, "adt": None}, {"rna": 4, "atac": 5})
    with pytest.raises(InputError) as caught:
        validate_dims(source, {"rna": 2000, "atac": 5, "hto": 3}, {"rna": 9, "atac": 3, "adt": 7})
    assert str(caught.value).splitlines() == [
        "rna: encoder expects 2000 features, the data has 4; set model.encoders.rna.in_dim to 4 or "
        "data.preprocess.rna.hvg to 2000",
        "atac: encoder expects 5 components, the data has 3; set model.encoders.atac.in_dim to 3",
        "hto: model.encoders.hto is configured, the data has rna, atac, adt; remove it, or name the matrix with "
        "data.keys.hto",
        "rna: decoder gives 9 features, the data has 4; set model.decoders.rna.out_dim to 4 or "
        "data.preprocess.rna.hvg to 9",
        "atac: decoder gives 3 features, the data has 5; set model.decoders.atac.out_dim to 5 or "
        "data.preprocess.atac.n_top to 3",
        "adt: decoder gives 7 features, the data has 2; set model.decoders.adt.out_dim to 2",
    ]

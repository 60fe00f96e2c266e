"""What remadom reads of an AnnData, whether it is an object or a part of a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem
from mudata import MuData

from remadom.data.files import DataFile, Node, kind_of
from remadom.data.obs import merge_obs
from remadom.data.ondisk import ColumnsOnDisk, on_disk
from remadom.data.stored import Stored, as_float32, check_numbers, in_memory
from remadom.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Annotated:
    """Cells x features with their annotations.

    Attributes
    ----------
    label
        What it is called in messages.
    obs, var
        Annotations of the cells and of the features; their indices are the names.
    keys
        The matrices that there are: ``X``, ``layers:<name>``, ``obsm:<name>``.
    element
        Anything by its path as AnnData names it (``obsm/X_lsi``, ``uns/modality``), in memory; ``None`` where
        there is none.
    matrix
        A matrix by its key, in memory or backed.
    """

    label: str
    obs: pd.DataFrame
    var: pd.DataFrame
    keys: tuple[str, ...]
    element: Callable[[str], Any]
    matrix: Callable[[str], Stored]

    def stored(self, key: str) -> Stored:
        """One of its matrices, checked against the number of cells and of features."""
        matrix = self.matrix(key)
        expected = (len(self.obs), matrix.shape[1] if key.startswith("obsm:") else len(self.var))
        if matrix.shape != expected:
            raise InputError(
                f"{self.label}: {key} is {matrix.shape}, expected {expected}; write the file again"
            )
        return matrix

    def feature_names(self, key: str, modality: str, n_features: int) -> pd.Index:
        """Names of the columns of a matrix.

        An ``obsm`` matrix has them as the columns of its data frame or in ``uns["<key>_names"]``; else they are
        ``<modality>_<i>``.
        """
        if not key.startswith("obsm:"):
            return self.var.index
        name = key.removeprefix("obsm:")
        names = self.element(f"uns/{name}_names")
        if names is None:
            frame = self.element(f"obsm/{name}")
            names = frame.columns if isinstance(frame, pd.DataFrame) else None
        if names is None:
            return pd.Index([f"{modality}_{i}" for i in range(n_features)])
        if len(names) != n_features:
            raise InputError(
                f"{self.label}: uns['{name}_names'] has {len(names)} names, obsm['{name}'] has {n_features} "
                "columns; give one name a column"
            )
        return pd.Index(np.asarray(names, dtype=object)).map(str)

    def components(self, name: str) -> np.ndarray | None:
        """A dense ``obsm`` matrix, cell x component, float32; ``None`` where there is none."""
        values = self.element(f"obsm/{name}")
        if values is None:
            return None
        values = values.toarray() if sp.issparse(values) else np.asarray(values)
        check_numbers(values.dtype, f"{self.label}: obsm:{name}")
        if values.ndim != 2:
            raise InputError(
                f"{self.label}: obsm['{name}'] is {values.shape}, expected cell x component; remove it"
            )
        return as_float32(values)


@dataclass(frozen=True, eq=False)
class Content:
    """What was given to remadom: one AnnData, or several by name.

    Attributes
    ----------
    parts
        The AnnData by name; a single AnnData has the name ``""``.
    obs
        Annotations that belong to no part (those of a MuData).
    element
        Anything that belongs to no part, by its path (``obsm/truth_rna``); ``None`` where there is none.
    """

    parts: Mapping[str, Annotated]
    obs: pd.DataFrame | None = None
    element: Callable[[str], Any] = lambda path: None

    @property
    def single(self) -> bool:
        """Whether it is one AnnData."""
        return list(self.parts) == [""]


def content_of(data: Any, *, backed: bool) -> Content:
    """Annotations of the data, and access to its matrices.

    Parameters
    ----------
    data
        File, AnnData, MuData, or mapping of AnnData.
    backed
        Leave matrices that are in a file there.
    """
    if isinstance(data, DataFile):
        return _of_file(data, backed)
    if isinstance(data, ad.AnnData):
        return Content({"": _of_anndata(data, "adata", backed)})
    if isinstance(data, (MuData, Mapping)):
        parts = dict(data.mod if isinstance(data, MuData) else data)
        name = "mdata" if isinstance(data, MuData) else "data"
        for key, part in parts.items():
            if not isinstance(part, ad.AnnData):
                raise InputError(
                    f"{name}['{key}'] is a {type(part).__name__}, expected an AnnData; take it apart"
                )
        annotated = {key: _of_anndata(part, f"{name}['{key}']", backed) for key, part in parts.items()}
        if isinstance(data, MuData):
            return Content(annotated, _plain(data.obs), _elements_of(data))
        return Content(annotated)
    raise InputError(
        f"the data is a {type(data).__name__}, expected a path, an AnnData, a MuData or a mapping of AnnData"
    )


def obs_in(data: Any) -> pd.DataFrame:
    """What is known of the cells of any data, by their names, whatever was measured in them.

    Raises
    ------
    InputError
        The data cannot be read.
    """
    file = DataFile(data) if isinstance(data, (str, Path)) else None
    with file.reading() if file else nullcontext():
        content = content_of(file or data, backed=True)
    if content.single:
        return content.parts[""].obs
    tables = {name: part.obs for name, part in content.parts.items()}
    first, *others = [content.obs, *tables.values()] if content.obs is not None else list(tables.values())
    names = first.index
    for table in others:
        names = names.append(table.index.difference(names, sort=False))
    return merge_obs(names, content.obs, tables)


def _elements_of(data: ad.AnnData | MuData) -> Callable[[str], Any]:
    """Access to what an object holds by its path."""

    def element(path: str) -> Any:
        attribute, name = path.split("/", 1)
        return getattr(data, attribute).get(name)

    return element


def _of_anndata(adata: ad.AnnData, label: str, backed: bool) -> Annotated:
    element = _elements_of(adata)

    def matrix(key: str) -> Stored:
        values = adata.X if key == "X" else element(key.replace(":", "/", 1))
        values = getattr(values, "group", values)  # a sparse matrix of a backed AnnData
        if hasattr(values, "file"):
            return _in_file(DataFile(values.file.filename, keep_open=backed), values.name, backed)
        return in_memory(values, f"{label}: {key}")

    keys = ["X"] if adata.X is not None else []
    keys += [f"layers:{name}" for name in adata.layers] + [f"obsm:{name}" for name in adata.obsm]
    return Annotated(label, _plain(adata.obs), _plain(adata.var), tuple(keys), element, matrix)


def _of_file(file: DataFile, backed: bool) -> Content:
    with file.reading() as root:
        if kind_of(root, file.path) == "AnnData":
            return Content({"": _part_of_file(file, "", str(file.path), backed)})
        names = list(root["mod"].attrs.get("mod-order", list(root["mod"])))
        parts = {
            name: _part_of_file(file, f"mod/{name}/", f"{file.path}['{name}']", backed) for name in names
        }
        return Content(parts, _frame(root, "obs", str(file.path)), _elements_in(file, ""))


def _elements_in(file: DataFile, where: str) -> Callable[[str], Any]:
    """Access to what a file holds below a group by its path."""

    def element(path: str) -> Any:
        with file.reading() as root:
            return read_elem(root[where + path]) if where + path in root else None

    return element


def _part_of_file(file: DataFile, where: str, label: str, backed: bool) -> Annotated:
    element = _elements_in(file, where)

    def matrix(key: str) -> Stored:
        path = where + key.replace(":", "/", 1)
        with file.reading() as root:
            if root[path].attrs.get("encoding-type") == "dataframe":
                return in_memory(read_elem(root[path]), f"{label}: {key}")
        return _in_file(file, path, backed)

    with file.reading() as root:
        obs, var = (_frame(root, where + name, label) for name in ("obs", "var"))
        keys = ["X"] if _exists(root, where + "X") else []
        for name in ("layers", "obsm"):
            keys += [f"{name}:{key}" for key in root.get(where + name, ())]
        return Annotated(label, obs, var, tuple(keys), element, matrix)


def _in_file(file: DataFile, path: str, backed: bool) -> Stored:
    matrix = on_disk(file, path)
    if not backed:
        return matrix.load()
    if isinstance(matrix, ColumnsOnDisk):
        logger.warning(
            "%s is stored by column (CSC): every batch passes over the whole matrix; "
            "set data.backed to false, or write it as CSR",
            matrix.what,
        )
    return matrix


def _frame(root: Node, path: str, label: str) -> pd.DataFrame:
    found = root[path].attrs.get("encoding-type", "written by an old anndata") if path in root else "missing"
    if found == "dataframe":
        try:
            return read_elem(root[path])
        except KeyError as error:
            found = f"incomplete ({error})"
    raise InputError(
        f"{label}: {path} is {found}, expected a data frame; read it with anndata or mudata and write it again"
    )


def _exists(root: Node, path: str) -> bool:
    return path in root and root[path].attrs.get("encoding-type") != "null"


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame itself, not the view that an AnnData view makes of it; the columns are shared."""
    return pd.DataFrame(frame).copy(deep=False)

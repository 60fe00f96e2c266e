"""Files of cells: what is checked before anything is read, and one reader at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import zarr

from remadom.errors import InputError, nearest

SUFFIXES = (".h5ad", ".h5mu", ".zarr")

Kind = Literal["AnnData", "MuData"]
Node = Any
"""A group or an array of an HDF5 file or of a zarr store; both answer to the same few methods."""


class DataFile:
    """An h5ad, h5mu or zarr file, opened when something is read and by one thread at a time.

    Attributes
    ----------
    path
        The file; a folder for zarr.
    keep_open
        Whether it stays open between reads; :meth:`close` closes it, and the next read opens it again.
    """

    def __init__(self, path: str | Path, *, keep_open: bool = False) -> None:
        self.path = Path(path)
        self.keep_open = keep_open
        self._root: Node = None
        self._lock = threading.RLock()

    @contextmanager
    def reading(self) -> Iterator[Node]:
        """Root group of the file, to this thread alone.

        Raises
        ------
        InputError
            The file cannot be opened, or what is read from it is damaged.
        """
        with self._lock:
            opened = self._root is None
            if opened:
                self._root = open_root(self.path)
            try:
                yield self._root
            except (OSError, RuntimeError) as error:  # what h5py and the codecs of zarr raise on bad bytes
                raise InputError(
                    f"{self.path} cannot be read to the end ({error}); it is damaged or compressed by a filter "
                    "that is not installed: copy it again, or write it again with gzip compression"
                ) from error
            finally:
                if opened and not self.keep_open:
                    self.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            root, self._root = self._root, None
            if isinstance(root, h5py.File):
                root.close()
            elif root is not None:
                root.store.close()


def open_root(path: Path) -> Node:
    """Root group of an existing file, read only.

    Raises
    ------
    InputError
        No such file, a suffix that remadom does not read, a folder that is no zarr store, a truncated or
        foreign file, or an HDF5 file that would read other files.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: the suffix is '{path.suffix}', expected one of {', '.join(SUFFIXES)}; "
            "convert it with anndata (write_h5ad) or mudata (write)"
        )
    if not path.exists():
        beside = [p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES]
        raise InputError(f"no such file: {path} ({nearest(path.name, beside)})")
    return _open_zarr(path) if path.suffix == ".zarr" else _open_hdf5(path)


def kind_of(root: Node, path: Path) -> Kind:
    """Whether a file holds an AnnData or a MuData.

    Raises
    ------
    InputError
        It holds neither, or not the one that its suffix says.
    """
    kind: Kind
    if root.attrs.get("encoding-type") == "MuData" or "mod" in root:
        kind = "MuData"
    elif "obs" in root and "var" in root:
        kind = "AnnData"
    else:
        inside = ", ".join(list(root)[:8]) or "nothing"
        raise InputError(
            f"{path} is neither an AnnData nor a MuData (found at the top: {inside}; expected obs and var, or "
            "mod); read it with the tool that wrote it and write it with anndata's write_h5ad"
        )
    right = {"AnnData": ".h5ad", "MuData": ".h5mu"}[kind]
    if path.suffix not in (right, ".zarr"):
        raise InputError(
            f"{path} holds {'an AnnData' if kind == 'AnnData' else 'a MuData'}, expected the suffix {right}; "
            f"rename it to {path.with_suffix(right).name}"
        )
    return kind


def _open_zarr(path: Path) -> Node:
    if not path.is_dir():
        raise InputError(f"{path} is a file, expected a folder (a zarr store); unpack it if it is an archive")
    if not ((path / "zarr.json").exists() or (path / ".zgroup").exists()):
        raise InputError(
            f"{path} is a folder but not a zarr store (it has neither zarr.json nor .zgroup); "
            "give the folder that write_zarr made"
        )
    try:
        return zarr.open_group(str(path), mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be opened as a zarr group ({error}); write it again") from error


def _open_hdf5(path: Path) -> Node:
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file; a zarr store must be named .zarr")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if not h5py.is_hdf5(path):
        found = (
            "empty" if not start else "gzip-compressed" if start[:2] == b"\x1f\x8b" else f"starts {start!r}"
        )
        raise InputError(
            f"{path} is not an HDF5 file ({found}); "
            + ("unpack it with gunzip" if found == "gzip-compressed" else "copy or download it again")
        )
    try:
        root = h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path} cannot be opened ({error}); it is probably truncated: copy or download it again"
        ) from error
    try:
        _refuse_other_files(root, path)
    except BaseException:
        root.close()
        raise
    return root


def _refuse_other_files(root: h5py.File, path: Path) -> None:
    """Refuse links and storage through which an HDF5 file makes the reader read other files."""
    groups, seen = [root["/"]], set()
    while groups:
        group = groups.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            try:
                link = group.get(name, getlink=True)
            except TypeError:  # a user-defined link
                link = None
            if isinstance(link, h5py.SoftLink):
                continue  # its target is in this file and has a hard link of its own, or does not exist
            if not isinstance(link, h5py.HardLink):
                raise _other_file(path, where, "a link")
            node = group[name]
            if isinstance(node, h5py.Dataset):
                if node.external or (
                    node.is_virtual and any(source.file_name != "." for source in node.virtual_sources())
                ):
                    raise _other_file(path, where, "a data set that is stored")
            elif isinstance(node, h5py.Group):
                address = h5py.h5o.get_info(node.id).addr
                if address not in seen:
                    seen.add(address)
                    groups.append(node)


def _other_file(path: Path, where: str, what: str) -> InputError:
    return InputError(
        f"{path}: {where} is {what} to or in another file, which is refused; "
        "copy the data into one file (anndata.read_h5ad, then write_h5ad)"
    )

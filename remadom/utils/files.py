"""Files that are complete or not there: written under another name, synchronized, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from remadom.errors import InputError


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _synchronize_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened, and a rename is durable by itself
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Binary file that takes its name only when it is complete and on the disk.

    Missing folders are made. Whatever goes wrong inside the ``with`` block, or to the machine, the file that
    was there before is still there, whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _unfinished(path)
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _synchronize_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file, atomically."""
    with atomic(path) as file:
        file.write(text.encode())


def refuse_existing(*paths: str | Path, overwrite: bool) -> None:
    """See that nothing is at the paths of an output, unless it may be replaced.

    Raises
    ------
    InputError
        One exists.
    """
    for path in () if overwrite else paths:
        if Path(path).exists():
            raise InputError(f"{path} exists; choose another --out, or give --overwrite")


def second_name(source: str | Path, name: str | Path) -> None:
    """Give the bytes of a file another name: a hard link, or a copy where the file system has no links.

    ``name`` is replaced atomically. A later atomic write to ``source`` does not change what ``name`` holds.
    """
    source, name = Path(source), Path(name)
    name.parent.mkdir(parents=True, exist_ok=True)
    part = _unfinished(name)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        with open(source, "rb") as original, atomic(name) as copy:
            shutil.copyfileobj(original, copy)
        return
    try:
        os.replace(part, name)
        _synchronize_folder(name.parent)
    finally:
        part.unlink(missing_ok=True)  # renaming a link over a link to the same bytes leaves both

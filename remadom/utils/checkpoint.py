"""Checkpoints: tensors and plain values in one file, which can hold no code."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remadom.errors import InputError
from remadom.utils.files import atomic

FORMAT = "remadom checkpoint"
"""What a checkpoint says that it is."""

VERSION = 1
"""Number of the layout of a checkpoint; a reader takes this one and all before it."""

_PLAIN = {str, bytes, int, float, bool, type(None)}


def refuse_objects(value: Any, where: str) -> None:
    """See that a value is made of tensors, text, numbers, lists and dicts.

    Anything else would be saved, and then be refused by the reader.

    Raises
    ------
    InputError
        It is not; the message starts with ``where``.
    """
    if isinstance(value, Mapping):
        for key, entry in value.items():
            refuse_objects(key, f"{where} (a key)")
            refuse_objects(entry, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for entry in value:
            if type(entry) not in _PLAIN:  # names of features and cells come by the ten thousand
                refuse_objects(entry, f"{where}[]")
    elif type(value) not in _PLAIN and not isinstance(value, Tensor):
        raise InputError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, "
            "text, numbers, lists and dicts only: convert it"
        )


def save_checkpoint(path: str | Path, **parts: Any) -> None:
    """Write named parts (state dicts, counters, metadata) to one file, atomically.

    Raises
    ------
    InputError
        A part holds something that is neither a tensor nor a plain value; nothing is written.
    """
    for name, part in parts.items():
        refuse_objects(part, name)
    with atomic(path) as file:
        torch.save({"format": FORMAT, "version": VERSION, **parts}, file)


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read the parts that :func:`save_checkpoint` wrote, without running anything that the file contains.

    Parameters
    ----------
    path
        The file, such as ``runs/pbmc/last.pt``.
    map_location
        Where the tensors go.

    Raises
    ------
    InputError
        No such file, not a checkpoint, damaged, or written by a newer remadom.
    """
    path = Path(path)
    if not path.is_file():
        near = path if path.is_dir() else path.parent
        found = ", ".join(sorted(p.name for p in near.glob("*.pt"))) or "none"
        what = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}; checkpoints in {near}: {found}")
    _check_archive(path)
    try:
        parts = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise InputError(
            f"{path} holds {culprit[1] if culprit else 'objects'}, not only tensors and plain values; reading it "
            "could run code, so it was not opened"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(f"{path} cannot be read: {reason}") from None
    if not isinstance(parts, dict) or parts.get("format") != FORMAT:
        raise InputError(f"{path} is a PyTorch file, but not a checkpoint of remadom")
    version = parts.get("version")
    if type(version) is not int or version > VERSION:
        raise InputError(
            f"{path} has layout {version}, but this remadom reads layouts up to {VERSION}; upgrade remadom"
        )
    return parts


def _check_archive(path: Path) -> None:
    """Only a whole zip as ``torch.save`` writes it goes on to the reader: no old pickles, nothing inflated."""
    try:
        with zipfile.ZipFile(path) as archive:
            inflated = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
            damaged = None if inflated else archive.testzip()  # torch itself does not look at the checksums
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError):
        inflated, damaged = False, "its table of contents"
    if inflated:
        raise InputError(f"{path} has compressed parts, which remadom never writes; it was not opened")
    if damaged is not None:
        raise InputError(
            f"{path} is not a checkpoint of remadom, or it is damaged or cut short ({damaged}); "
            "use another checkpoint of the run"
        )

"""A folder that can be shared: tensors as safetensors, everything else as JSON, checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from remadom.errors import InputError
from remadom.utils.checkpoint import refuse_objects
from remadom.utils.files import atomic, write_text

MANIFEST = "remadom.json"
FORMAT = "remadom model"
SCHEMA = 1
"""Number of the layout; a reader takes this one and all before it."""

SUFFIX = ".safetensors"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
_DTYPES |= {
    f"{kind}{bits}": f"{word}{bits}"
    for kind, word in (("I", "int"), ("U", "uint"))
    for bits in (8, 16, 32, 64)
}


def is_portable(path: str | Path) -> bool:
    """Whether this is a folder that :func:`write_portable` wrote."""
    return (Path(path) / MANIFEST).is_file()


def write_portable(
    folder: str | Path, content: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
) -> Path:
    """Write a folder; the manifest comes last, so a folder without one is not whole.

    Parameters
    ----------
    folder
        Made where it is missing.
    content
        Plain values (text, numbers, lists, dicts) and tensors, which go into ``model.safetensors``.
    tensors
        Tensors by file (without the suffix) and name.

    Raises
    ------
    InputError
        The content holds something that is neither plain nor a tensor; nothing is written.
    """
    refuse_objects(dict(content), "content")
    files: dict[str, dict[str, Tensor]] = {name: dict(parts) for name, parts in tensors.items()}
    plain = _without_tensors(content, "", files.setdefault("model", {}))
    folder = Path(folder)
    if is_portable(folder):  # all of the model that was here goes, the cells that are now left out above all
        (folder / MANIFEST).unlink()
        for old in folder.glob(f"*{SUFFIX}"):
            old.unlink()
    for name, parts in files.items():
        with atomic(folder / f"{name}{SUFFIX}") as file:
            file.write(save({key: tensor.detach().cpu().contiguous() for key, tensor in parts.items()}))
    listed = {
        name: {key: _described(tensor) for key, tensor in parts.items()} for name, parts in files.items()
    }
    header = {"format": FORMAT, "schema": SCHEMA}
    write_text(folder / MANIFEST, json.dumps({**header, **plain, "tensors": listed}, indent=1) + "\n")
    return folder


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The plain content of a folder, with its list of ``tensors`` by file: name, dtype and shape of each.

    Raises
    ------
    InputError
        No such folder, no model of remadom, damaged, or written by a newer remadom.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder} has no {MANIFEST}: not a saved model; make one with `remadom save RUN DIR`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); it is damaged: take another copy") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{path} is JSON, but not of a saved model of remadom")
    schema = manifest.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise InputError(
            f"{path} has layout {schema}, but this remadom reads layouts 1 to {SCHEMA}; upgrade remadom"
        )
    tensors = manifest.get("tensors")
    if not isinstance(tensors, dict) or not all(isinstance(parts, dict) for parts in tensors.values()):
        raise InputError(f"{path} does not list its tensors; it is damaged: take another copy")
    return manifest


def read_portable(folder: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Content and tensors of a folder, as they were given to :func:`write_portable`.

    Names, dtypes and shapes are compared with the manifest from the files' headers, before any tensor is read.

    Raises
    ------
    InputError
        As :func:`read_manifest`; or a file of tensors is missing, damaged, or not what the manifest says.
    """
    manifest = read_manifest(folder)
    files = {name: _read_tensors(Path(folder), name, listed) for name, listed in manifest["tensors"].items()}
    content = {key: value for key, value in manifest.items() if key not in ("format", "schema", "tensors")}
    return _with_tensors(content, files.get("model", {}), Path(folder)), files


def _read_tensors(folder: Path, name: str, listed: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / f"{name}{SUFFIX}"
    if path.resolve().parent != folder.resolve():
        raise InputError(f"{path} lies outside of the folder of the model; it was not opened")
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the whole folder of the model")
    try:
        with safe_open(path, framework="pt") as file:
            found = {
                key: [_DTYPES.get(view.get_dtype(), view.get_dtype()), list(view.get_shape())]
                for key, view in ((key, file.get_slice(key)) for key in file.keys())  # noqa: SIM118 not a dict
            }
            wrong = [
                f"{key}: found {found.get(key, 'none')}, expected {listed.get(key, 'none')}"
                for key in sorted({*found, *listed})
                if found.get(key) != listed.get(key)
            ]
            if wrong:
                more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
                raise InputError(f"{path} is not what {MANIFEST} says: {'; '.join(wrong[:3])}{more}")
            return {key: file.get_tensor(key) for key in found}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); it is damaged: take another copy") from None


def _described(tensor: Tensor) -> list[Any]:
    return [str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def _without_tensors(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The value with each tensor replaced by ``{"tensor": name}``; the tensors are put into ``tensors``."""
    if isinstance(value, Tensor):
        tensors[where] = value
        return {"tensor": where}
    if isinstance(value, bytes) or (
        isinstance(value, Mapping) and not all(type(key) is str for key in value)
    ):
        raise InputError(
            f"content.{where} has bytes, or keys that are no text, which JSON cannot hold; convert it"
        )
    if isinstance(value, Mapping):
        return {
            key: _without_tensors(entry, f"{where}.{key}".lstrip("."), tensors)
            for key, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_without_tensors(entry, f"{where}.{i}", tensors) for i, entry in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor], folder: Path) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            if value["tensor"] not in tensors:
                raise InputError(
                    f"{folder}: {MANIFEST} names the tensor {value['tensor']!r}, which is not there"
                )
            return tensors[value["tensor"]]
        return {key: _with_tensors(entry, tensors, folder) for key, entry in value.items()}
    return [_with_tensors(entry, tensors, folder) for entry in value] if isinstance(value, list) else value

"""Which matrix of the data is which modality."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from remadom.data.annotated import Annotated, Content
from remadom.data.modality import MODALITIES, modality_named
from remadom.data.obs import check_unique
from remadom.data.stored import Stored
from remadom.errors import InputError, nearest

MAIN = ("layers:counts", "X")
"""The matrices over ``var``, the first that exists."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where the matrix of a modality is: part, key and columns (``None``: all of them)."""

    part: str
    key: str
    columns: np.ndarray | None = None

    def __str__(self) -> str:
        return f"{self.part}:{self.key}" if self.part else self.key


def locate(
    content: Content, keys: Mapping[str, str], wanted: Sequence[str] | None
) -> tuple[dict[str, Place], tuple[str, ...]]:
    """Matrix of each modality, and what else there is.

    Parameters
    ----------
    content
        The data.
    keys
        The matrix of each modality; empty finds them.
    wanted
        Modalities to use; ``None`` for all.

    Returns
    -------
    places
        By modality, in registry order.
    ignored
        Names of the modalities that are not used.

    Raises
    ------
    InputError
        A key or a modality that does not exist, or no known modality at all.
    """
    parts, single = content.parts, content.single
    if keys:
        places = {modality: _given(parts, modality, key) for modality, key in keys.items()}
    else:
        places = _in_one(parts[""]) if single else _in_parts(parts)
    names = [*_feature_types(parts[""])] if single else [*parts]
    if not places:
        there = [f"{k}:{key}" if k else key for k, part in parts.items() for key in part.keys]
        raise InputError(
            f"no known modality (found: {', '.join(names) or 'no name'}; known: {', '.join(MODALITIES)}); "
            f"say which matrix is which with data.keys, for example data.keys.rna={there[0] if there else 'X'}"
        )
    for modality in wanted or ():
        if modality not in places:
            modality_named(modality)
            raise InputError(
                f"data.modalities asks for '{modality}', the data has {', '.join(places)}"
                f"{' by data.keys' if keys else ''}; leave it out, or name its matrix with data.keys.{modality}"
            )
    kept = {m: places[m] for m in MODALITIES if m in places and (wanted is None or m in wanted)}
    used = set(kept) if single else {place.part for place in kept.values()}
    others = dict.fromkeys([*names, *(places if single else ())])
    return kept, tuple(name for name in others if name not in used)


def matrices_of(
    parts: Mapping[str, Annotated], places: Mapping[str, Place], *, repeated: bool = False
) -> tuple[dict[str, Stored], dict[str, pd.Index]]:
    """Matrix and feature names of each modality; names may be repeated where that is asked for.

    Raises
    ------
    InputError
        A modality without features, or feature names that occur twice in one.
    """
    loaded: dict[tuple[str, str], Stored] = {}
    matrices, features = {}, {}
    for modality, place in places.items():
        at = (place.part, place.key)
        if at not in loaded:
            loaded[at] = parts[modality].stored(place.key)
        matrix = loaded[at]
        names = parts[modality].feature_names(place.key, modality, matrix.shape[1])
        if place.columns is not None:
            matrix, names = matrix.select(place.columns), names[place.columns]
        if not len(names):
            raise InputError(f"{modality}: {place} has no features; leave it out with data.modalities")
        if not repeated:
            check_unique(names, "feature", f"{modality} ({place})", "var_names_make_unique")
        matrices[modality], features[modality] = matrix, names
    return matrices, features


def known_as(name: str) -> str | None:
    """Modality of that name or alias, in any case."""
    lower = name.strip().lower()
    for modality in MODALITIES.values():
        if lower in (modality.name, *modality.aliases):
            return modality.name
    return None


def _given(parts: Mapping[str, Annotated], modality: str, key: str) -> Place:
    """Place that a key names: ``layers:counts``, or ``rna:layers:counts`` where there are several parts."""
    modality_named(modality)
    part, matrix = "", key
    if "" not in parts:
        head, _, rest = key.partition(":")
        part, matrix = (head, rest) if head in parts else (_part_of(modality, parts), key)
    if matrix not in parts[part].keys:
        valid = [
            f"{name}:{known}" if name else known for name, found in parts.items() for known in found.keys
        ]
        raise InputError(f"data.keys.{modality}: no matrix '{key}' in the data: {nearest(key, valid)}")
    types = {} if matrix.startswith("obsm:") else _feature_types(parts[part])
    return Place(part, matrix, types.get(modality) if len(types) > 1 else None)


def _part_of(modality: str, parts: Mapping[str, Annotated]) -> str:
    """The part that is a modality by its name."""
    named = [name for name in parts if known_as(name) == modality]
    if modality in named or len(named) == 1:
        return modality if modality in named else named[0]
    found = f"{' and '.join(named)} could all be" if named else f"{', '.join(parts)}: none is known as"
    raise InputError(f"{found} {modality}; say which with data.keys, for example {modality}=<name>:X")


def _in_parts(parts: Mapping[str, Annotated]) -> dict[str, Place]:
    known = dict.fromkeys(modality for name in parts if (modality := known_as(name)))
    places = {}
    for modality in known:
        part = _part_of(modality, parts)
        key = next((key for key in MAIN if key in parts[part].keys), None)
        if key is None:
            raise InputError(
                f"{parts[part].label} has neither layers['counts'] nor X; name the matrix with "
                f"data.keys.{modality} (it has: {', '.join(parts[part].keys) or 'none'})"
            )
        places[modality] = Place(part, key)
    return places


def _in_one(data: Annotated) -> dict[str, Place]:
    """Every modality of one AnnData: those of the main matrix, then those whose key exists."""
    main = next((key for key in MAIN if key in data.keys), None)
    places = {}
    if main is not None and len(data.var):
        types = _feature_types(data)
        typed = [modality for modality in MODALITIES if modality in types]
        if typed:
            places = {
                modality: Place("", main, types[modality] if len(types) > 1 else None) for modality in typed
            }
        else:
            places[_main_modality(data)] = Place("", main)
    for modality in MODALITIES.values():
        key = next((key for key in modality.keys if key in data.keys and key not in MAIN), None)
        if key is not None:
            places.setdefault(modality.name, Place("", key))
    return places


def _main_modality(data: Annotated) -> str:
    """What the main matrix is where no feature has a known type: by ``uns["modality"]``, by the feature names."""
    said = data.element("uns/modality")
    named = known_as(said) if isinstance(said, str) else None
    patterns = {m.name: re.compile(m.feature_names) for m in MODALITIES.values() if m.feature_names}
    looks = next((name for name, like in patterns.items() if _share(data.var.index, like) > 0.9), None)
    usual = next(modality.name for modality in MODALITIES.values() if "X" in modality.keys)
    return named or looks or usual


def _feature_types(data: Annotated) -> dict[str, np.ndarray]:
    """Columns of each modality by ``var["feature_types"]``; a type that is no modality has its own name."""
    if "feature_types" not in data.var:
        return {}
    types = data.var["feature_types"].astype(str).to_numpy()
    columns: dict[str, list[np.ndarray]] = {}
    for found in dict.fromkeys(types):
        modality = next((m.name for m in MODALITIES.values() if found in m.feature_types), found)
        columns.setdefault(modality, []).append(np.flatnonzero(types == found))
    return {name: np.sort(np.concatenate(parts)) for name, parts in columns.items()}


def _share(names: Sequence[str], pattern: re.Pattern[str]) -> float:
    """Share of the names (of the first thousand) that a pattern describes."""
    first = list(names[:1000])
    return sum(pattern.fullmatch(name) is not None for name in first) / max(1, len(first))

"""Features of a query found among those of a reference: by name, by what names mean, by where peaks lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

from remadom.errors import InputError, nearest

MISSING = "missing"
_INTERVAL = re.compile(r"(?P<chromosome>\S+?)[:_-](?P<start>\d+)[-_](?P<end>\d+)")
_VERSION = re.compile(r"(?<=\d)\.\d+$")


def _unversioned(name: str) -> str:
    """An identifier of Ensembl without its version; AL627309.1 and AL627309.5 are two genes."""
    return _VERSION.sub("", name) if name[:3].casefold() == "ens" else name


def _plain(name: str) -> str:
    """Letters and digits; numbers stay apart, so that CD3-1 is not CD31."""
    apart = re.sub(r"(?<=\d)[\W_]+(?=\d)", "-", _unversioned(name).casefold())
    return re.sub(r"(?!(?<=\d)-(?=\d))[\W_]", "", apart)


SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("version", _unversioned),
    ("case", str.casefold),
    ("case and version", lambda name: _unversioned(name).casefold()),
    ("punctuation", _plain),
)
"""Ways in which two names may differ and still mean the same feature, tried one after the other."""


@dataclass(frozen=True, eq=False)
class Match:
    """Which features of a reference a query has.

    Attributes
    ----------
    modality
        Of which modality.
    reference
        Names of the reference's features.
    how
        How each was found: ``exact``, ``table``, one of the ``SPELLINGS``, ``overlap`` or ``missing``.
    found
        Names of the query's features that each was found as (several where a name occurs more than once or peaks
        overlap: their counts are added).
    matrix
        Query feature x reference feature, of zeros and ones: counts times it are counts of the reference's features.
    extra
        Number of the query's features that the reference does not know.
    share
        Share of the reference's counts that lies in the features found.
    """

    modality: str
    reference: Sequence[str]
    how: np.ndarray
    found: Sequence[tuple[str, ...]]
    matrix: sp.csr_matrix
    extra: int
    share: float

    @property
    def present(self) -> np.ndarray:
        """Whether the query has each of the reference's features."""
        present: np.ndarray = self.how != MISSING
        return present

    @property
    def overlap(self) -> float:
        """Share of the reference's features that the query has."""
        return float(self.present.mean())

    def table(self) -> pd.DataFrame:
        """One row a feature of the reference: what it was found as, and how."""
        names = [", ".join(found) for found in self.found]
        return pd.DataFrame(
            {"modality": self.modality, "reference": list(self.reference), "query": names, "how": self.how}
        )

    def summary(self) -> dict[str, object]:
        """The match in numbers, and its first missing features."""
        missing = [name for name, there in zip(self.reference, self.present, strict=True) if not there]
        kinds, counts = np.unique(self.how[self.present], return_counts=True)
        return {
            "features": len(self.reference),
            "found": int(self.present.sum()),
            "overlap": self.overlap,
            "share_of_counts": self.share,
            **{f"by_{kind.replace(' ', '_')}": int(n) for kind, n in zip(kinds, counts, strict=True)},
            "several": sum(len(found) > 1 for found in self.found),
            "extra": self.extra,
            "missing": missing[:10],
        }


def match_features(
    modality: str,
    reference: Sequence[str],
    query: Sequence[str],
    *,
    rates: np.ndarray | None = None,
    table: Mapping[str, str] | None = None,
) -> Match:
    """Find a reference's features in a query.

    A feature is taken by its exact name; else by the table; else by a spelling of its name that no other feature of the
    reference has and that means one name in the query; else, where names are genomic intervals, by overlap. A name of
    the query that is in the table means what the table says and nothing else, and stands for one feature (a peak may
    overlap several).

    Parameters
    ----------
    modality
        Of which modality, for messages.
    reference, query
        Names of the features.
    rates
        Share of each feature in the reference's counts; equal by default.
    table
        Name in the reference of names in the query.

    Raises
    ------
    InputError
        The table names features that the reference does not have.
    """
    names = [str(name) for name in query]
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(name, []).append(column)
    how = np.full(len(reference), MISSING, dtype=object)
    taken: list[list[int]] = [[] for _ in reference]
    at = {name: i for i, name in enumerate(reference)}
    table = table or {}
    used: set[int] = set()

    def take(i: int, found: Sequence[int], word: str) -> None:
        if how[i] == MISSING:
            how[i], taken[i] = word, list(found)
            used.update(found)

    for name, i in at.items():
        if name in columns and name not in table:
            take(i, columns[name], "exact")
    for theirs, ours in table.items():
        if theirs not in columns:
            continue
        if ours not in at:
            raise InputError(f"{modality}: the table says that '{theirs}' is '{ours}': {nearest(ours, at)}")
        take(at[ours], columns[theirs], "table")
    for word, spell in SPELLINGS:
        left = {name for name, found in columns.items() if name not in table and not used.intersection(found)}
        free = left - {*at}
        spelled = _unambiguous(free, spell)
        for spelling, name in _unambiguous(at, spell).items():
            if spelling in spelled and spelling:
                take(at[name], columns[spelled[spelling]], word)
    _overlapping(reference, names, take)

    entries = [(column, i) for i, found in enumerate(taken) for column in found]
    rows, cols = (
        (np.array(part, dtype=np.int64) for part in zip(*entries, strict=True)) if entries else ([], [])
    )
    matrix = sp.csr_matrix(
        (np.ones(len(entries), np.float32), (rows, cols)), shape=(len(names), len(reference))
    )
    present = how != MISSING
    weights = np.full(len(reference), 1 / max(1, len(reference))) if rates is None else rates
    return Match(
        modality=modality,
        reference=list(reference),
        how=how,
        found=[
            tuple(dict.fromkeys(names[column] for column in found)) * _times(names, found) for found in taken
        ],
        matrix=matrix,
        extra=len(names) - len({column for column, _ in entries}),
        share=float(weights[present].sum()),
    )


def _times(names: Sequence[str], found: Sequence[int]) -> int:
    """How often a name is to be told: as often as it occurs, where it is one name that occurs more than once."""
    return len(found) if len({names[column] for column in found}) == 1 else 1


def _unambiguous(
    names: Sequence[str] | set[str] | Mapping[str, int], spell: Callable[[str], str]
) -> dict[str, str]:
    """Name by its spelling, for the spellings that only one name has."""
    spelled: dict[str, list[str]] = {}
    for name in names:
        spelled.setdefault(spell(name), []).append(name)
    return {spelling: of[0] for spelling, of in spelled.items() if len(of) == 1}


def _overlapping(
    reference: Sequence[str], query: Sequence[str], take: Callable[[int, Sequence[int], str], None]
) -> None:
    """Peaks of the query that overlap those of the reference, where all names of both are intervals."""
    ours, theirs = _intervals(reference), _intervals(query)
    if ours is None or theirs is None:
        return
    for chromosome in sorted({*ours} & {*theirs}):
        at, start, end = theirs[chromosome]
        order = np.argsort(start, kind="stable")
        at, start, end = at[order], start[order], end[order]
        longest = int((end - start).max())
        for i, low, high in zip(*ours[chromosome], strict=True):
            first = np.searchsorted(start, low - longest)
            last = np.searchsorted(start, high)
            hits = at[first:last][end[first:last] > low]
            if len(hits):
                take(int(i), hits.tolist(), "overlap")


def _intervals(names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] | None:
    """Position in the list, start and end of each interval by chromosome; ``None`` where one is no interval."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for i, name in enumerate(names):
        read = _INTERVAL.fullmatch(name)
        if read is None:
            return None
        found.setdefault(read["chromosome"], []).append((i, int(read["start"]), int(read["end"])))
    parts = {chromosome: np.array(entries, dtype=np.int64).T for chromosome, entries in found.items()}
    return {chromosome: (part[0], part[1], part[2]) for chromosome, part in parts.items()}

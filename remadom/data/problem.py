"""Which problem a data set poses: its cohorts, what links them, and what no cell links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from remadom.data.modality import modality_named
from remadom.data.source import Source

PROBLEMS = ("paired", "unpaired", "bridge", "mosaic", "prediction", "hierarchical")
LABELED = 0.9
"""Share of the cells with a modality that must be labeled before a type is said to be missing among them."""


@dataclass(frozen=True)
class Cohort:
    """Cells of one batch of one data set that have the same modalities.

    Attributes
    ----------
    dataset, batch
        Names of the two.
    modalities
        What its cells have; may be none where values are held out.
    cells, labeled
        Number of its cells, and of those with a label.
    labels
        Cells of each label.
    """

    dataset: str
    batch: str
    modalities: tuple[str, ...]
    cells: int
    labeled: int
    labels: Mapping[str, int]

    @property
    def name(self) -> str:
        """What it is called in a sentence."""
        return f"{self.batch} ({together(self.modalities)})"


@dataclass(frozen=True)
class Problem:
    """The type of a problem.

    Attributes
    ----------
    kind
        The main one of ``PROBLEMS``.
    why
        A sentence.
    others
        What is also true, and why.
    """

    kind: str
    why: str
    others: Mapping[str, str]


@dataclass(frozen=True)
class Link:
    """The thinnest place of the graph of cohorts and modalities.

    Attributes
    ----------
    sides
        The modalities, in two parts.
    cells
        Cells that have modalities of both parts: without them the parts share no cell.
    cohorts
        Names of the cohorts of these cells.
    """

    sides: tuple[tuple[str, ...], tuple[str, ...]]
    cells: int
    cohorts: tuple[str, ...]


@dataclass(frozen=True)
class Links:
    """How cohorts hang together: a cohort is tied to its modalities, a modality to the cohorts that have it.

    Attributes
    ----------
    parts
        Modalities that cells link, directly or through others; one part is a connected graph.
    shared
        Cells that have both, by pair of modalities such as ``rna-atac``.
    thinnest
        Where the fewest cells hold two parts together; ``None`` for one modality.
    lost
        What cannot be recovered, a sentence each.
    """

    parts: tuple[tuple[str, ...], ...]
    shared: Mapping[str, int]
    thinnest: Link | None
    lost: tuple[str, ...]

    @property
    def connected(self) -> bool:
        """Whether all cohorts hang together."""
        return len(self.parts) == 1

    @property
    def words(self) -> str:
        """The thinnest place in a sentence."""
        if self.thinnest is None:
            return "one modality links all cells"
        sides = " with ".join(map(together, self.thinnest.sides))
        if not self.connected:
            return f"no cell links {sides}"
        return (
            f"all modalities are linked; the thinnest link, {sides}, is {self.thinnest.cells:,} cells of "
            f"{some(self.thinnest.cohorts, 3)}"
        )


def cohorts_of(source: Source, batch_key: str, dataset_key: str, label_key: str) -> tuple[Cohort, ...]:
    """Cohorts of a source, data set by data set; a column that obs has not is one group, ``all``."""
    batch, batches = source.codes(batch_key, required=False)
    dataset, datasets = source.codes(dataset_key, required=False)
    bits = sum(source.has[m].astype(np.int64) << i for i, m in enumerate(source.modalities))
    keys, group = np.unique(np.stack([dataset, batch, -bits]), axis=1, return_inverse=True)
    label = source.obs.get(label_key)
    found = []
    for number, (in_dataset, in_batch, minus_bits) in enumerate(keys.T):
        inside = np.flatnonzero(group.ravel() == number)
        known = {} if label is None else label.iloc[inside].dropna().astype(str).value_counts().to_dict()
        found.append(
            Cohort(
                datasets[in_dataset],
                batches[in_batch],
                tuple(m for i, m in enumerate(source.modalities) if -minus_bits >> i & 1),
                len(inside),
                int(sum(known.values())),
                {name: int(known[name]) for name in sorted(known) if known[name]},
            )
        )
    return tuple(found)


def problem_of(cohorts: Sequence[Cohort], modalities: Sequence[str]) -> Problem:
    """Type of the problem.

    By what cells have: ``paired`` (all of them have everything), ``unpaired`` (none has two modalities),
    ``prediction`` (some lack the same modality, and that alone), ``bridge`` (batches with one modality each, and
    batches with all of them), else ``mosaic``. Beside that ``hierarchical``: at least two data sets have several
    batches each; it is then the main one.
    """
    kind, why = _by_presence([cohort for cohort in cohorts if cohort.modalities], tuple(modalities))
    batches = batches_by_dataset(cohorts)
    nested = [name for name, of in batches.items() if len(of) > 1]
    if len(nested) < 2:
        return Problem(kind, why, {})
    levels = (
        f"{len(nested)} of {len(batches)} data sets have several batches each: data sets differ as wholes, and "
        "batches within them"
    )
    return Problem("hierarchical", levels, {kind: why})


def batches_by_dataset(cohorts: Iterable[Cohort]) -> dict[str, set[str]]:
    """Names of the batches of each data set."""
    found: dict[str, set[str]] = {}
    for cohort in cohorts:
        found.setdefault(cohort.dataset, set()).add(cohort.batch)
    return found


def links_of(cohorts: Sequence[Cohort], modalities: Sequence[str]) -> Links:
    """What links the cohorts, and what nothing links."""
    shared = {
        f"{a}-{b}": sum(c.cells for c in cohorts if {a, b} <= set(c.modalities))
        for a, b in combinations(modalities, 2)
    }
    parts = _parts(cohorts, modalities)
    return Links(parts, shared, _thinnest(cohorts, modalities), tuple(_lost(cohorts, modalities, parts)))


def together(modalities: Sequence[str]) -> str:
    """Modalities in words: ``RNA + ADT``."""
    return " + ".join(modality_named(m).title for m in modalities) or "nothing"


def _by_presence(cohorts: Sequence[Cohort], modalities: tuple[str, ...]) -> tuple[str, str]:
    cells: dict[tuple[str, ...], int] = {}
    patterns: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for cohort in cohorts:
        cells[cohort.modalities] = cells.get(cohort.modalities, 0) + cohort.cells
        patterns.setdefault((cohort.dataset, cohort.batch), set()).add(cohort.modalities)
    total = sum(cells.values())
    if set(cells) == {modalities}:
        alone = (
            ", the only modality: what is left is to make batches comparable" if len(modalities) == 1 else ""
        )
        return "paired", f"all {total:,} cells have {together(modalities)}{alone}"
    counted = ", ".join(f"{together(m)} {n:,}" for m, n in sorted(cells.items(), key=lambda item: -item[1]))
    if all(len(pattern) == 1 for pattern in cells):
        return "unpaired", f"no cell has two modalities ({counted} cells)"
    others = [set(modalities) - set(pattern) for pattern in cells if pattern != modalities]
    lacking = cells.keys() - {modalities}
    if modalities in cells and len(lacking) == 1 and len(others[0]) == 1:
        (target,) = others[0]
        rest = together([m for m in modalities if m != target])
        n = total - cells[modalities]
        return "prediction", (
            f"{n:,} of {total:,} cells lack {together([target])} and nothing else: it is to be predicted from {rest}"
        )
    whole = len(patterns) == 1 or all(len(of) == 1 for of in patterns.values())
    if modalities in cells and whole and all(len(pattern) == 1 for pattern in lacking):
        return "bridge", (
            f"cells that have one modality ({', '.join(f'{together(m)} {cells[m]:,}' for m in sorted(lacking))}) "
            f"are linked by {cells[modalities]:,} that have all"
        )
    return "mosaic", f"cells have {len(cells)} different sets of modalities ({counted} cells)"


def _parts(cohorts: Sequence[Cohort], modalities: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Connected parts of the graph, by its modalities."""
    parts = [{m} for m in modalities]
    for cohort in cohorts:
        touched = [part for part in parts if part & set(cohort.modalities)]
        if len(touched) > 1:
            parts = [part for part in parts if part not in touched] + [set().union(*touched)]
    ordered = [tuple(m for m in modalities if m in part) for part in parts]
    return tuple(sorted(ordered, key=lambda part: modalities.index(part[0])))


def _thinnest(cohorts: Sequence[Cohort], modalities: Sequence[str]) -> Link | None:
    """The smallest cut: of all ways to part the modalities in two, the one that the fewest cells cross."""
    first, *others = modalities
    links = []
    for size in range(len(others)):
        for beside in combinations(others, size):
            side = {first, *beside}
            across = [c for c in cohorts if set(c.modalities) & side and set(c.modalities) - side]
            sides = (
                tuple(m for m in modalities if m in side),
                tuple(m for m in modalities if m not in side),
            )
            links.append(Link(sides, sum(c.cells for c in across), tuple(c.name for c in across)))
    return min(links, key=lambda link: link.cells, default=None)


def _lost(
    cohorts: Sequence[Cohort], modalities: Sequence[str], parts: tuple[tuple[str, ...], ...]
) -> Iterable[str]:
    if len(parts) > 1:
        for part in parts:
            n = sum(c.cells for c in cohorts if set(c.modalities) & set(part))
            missing = " and ".join(together(other) for other in parts if other != part)
            yield (
                f"{missing} of the {n:,} cells that have only {together(part)}: no cell links them, so any value "
                "would be a guess"
            )
    labels = {label for cohort in cohorts for label in cohort.labels}
    for m in modalities:
        having = [cohort for cohort in cohorts if m in cohort.modalities]
        known = sum(c.labeled for c in having) >= LABELED * sum(c.cells for c in having)
        if not known or any(part == (m,) for part in parts):
            continue
        never = sorted(labels - {label for cohort in having for label in cohort.labels})
        if never:
            yield f"{together([m])} of {some(never)}: no labeled cell of that type has {together([m])}"


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")

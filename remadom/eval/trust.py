"""Whether the cohorts of a data set have been aligned, in words and with the evidence: never a good word for a bad fit.

Cohorts that share a modality are judged by it (:mod:`remadom.eval.consistency`). Cohorts that share none are judged by
the best chain of cohorts that links them, as its weakest part; where there is no chain, nothing can be known, however
well they are mixed. Labels are not needed; where there are some they can only make a verdict worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from remadom.errors import InputError
from remadom.eval.consistency import compare
from remadom.eval.labeled import RECALL, Types, described, of_labels
from remadom.eval.labels import Labels
from remadom.eval.linked import Unit, best_path, meetings, units
from remadom.eval.mixing import mixing
from remadom.eval.neighbors import centered
from remadom.eval.sentences import summary
from remadom.eval.verdicts import (
    APART,
    KNOWN,
    Verdict,
    fate,
    judge,
    of_meeting,
    of_mixing,
    of_modalities,
    weakest,
)
from remadom.types import View

FEWEST = 60
"""Cells of a cohort that have a modality below which it is not judged by it: two populations of 30."""
FEWEST_DRAWN = 300
"""Cells of a cohort that are looked at however many cohorts there are."""
MOST_COMPARED = 12
"""Most cohorts of which each two are compared; of more, each is compared with the ``HUBS`` largest, and the others are
judged by the chains through these."""
HUBS = 4
NEARLY_ALL = 0.95
"""Share of the cells compared whose pairs are aligned where the whole is called aligned: what little is left could
not be known; a pair that fails, however small, is never among it."""
MOSTLY_NOT = 0.75
"""Share of the cells compared whose pairs failed where the whole is called not aligned: one cohort of three that was
not aligned with the others is in two pairs of three, and leaves one that can be used."""


def trust(
    z: np.ndarray,
    cohorts: Labels,
    views: Mapping[str, View],
    *,
    unimodal: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    labels: Labels | None = None,
    seed: int = 0,
    max_cells: int = 5000,
) -> dict[str, Any]:
    """Say whether cohorts are aligned in an embedding.

    Parameters
    ----------
    z
        Cell x latent, from all modalities that a cell has.
    cohorts
        One name a cell, usually its batch; cells without one are left out.
    views
        The measured features by modality, made comparable between cells.
    unimodal
        By modality, positions of cells that have several modalities, and their embeddings from this one alone.
    labels
        One a cell where known. They can make a verdict worse and name what is not to be transferred.
    seed
        Seed of the cells drawn, and of clusters and the bootstrap.
    max_cells
        Cells of a pair of cohorts that are compared, drawn at random, half of each; fewer where there are more than
        four pairs, so that time grows with the root of their number.

    Returns
    -------
    dict
        ``verdict``: ``aligned``, ``partly``, ``not`` or ``unknown``. ``words``: sentences, the worst first.
        ``pairs``: for each two cohorts ``a, b, n_cells, verdict``; ``mixing`` in the embedding; ``modalities``: by
        modality the ``verdict`` and what :func:`~remadom.eval.verdicts.judge` found; ``few``: why a
        modality that both have was not compared; ``through``: the cohorts of the chain that links them; ``labels``: see
        :meth:`~remadom.eval.labeled.Types.transfer`; ``do_not_transfer``. ``meetings``: by cohort, how well the
        modalities of its cells meet. ``do_not_transfer``: types, or clusters where there is no label, of any pair.
        ``n_cells``: the most that are compared of a cohort.

    Raises
    ------
    InputError
        ``z`` is no finite matrix, or ``cohorts`` or ``labels`` has another length.
    """
    z = _without_ties(centered(z), seed)
    code, names = _coded(cohorts, len(z), "cohorts")
    types = Types(*_coded(labels, len(z), "labels")) if labels is not None else None
    has = {name: np.isin(np.arange(len(z)), view.cells) for name, view in views.items()}
    found = units(code, names, has)
    between = list(combinations(range(len(found)), 2))
    most = most_compared(len(between), max_cells)
    hubs = set(sorted(range(len(found)), key=lambda i: -len(found[i].cells))[:HUBS])
    if len(found) <= MOST_COMPARED:
        hubs = set(range(len(found)))
    met = {unit.name: meetings(unit, unimodal or {}, seed) for unit in found}
    pairs = {
        (i, j): _pair(z, found[i], found[j], views if hubs & {i, j} else {}, types, most, seed)
        for i, j in between
    }
    _link(pairs, found, met)
    for pair in pairs.values():
        if pair["verdict"] in ("not", "unknown"):
            pair["do_not_transfer"] = [f"everything between {pair['a']} and {pair['b']}"]
    listed = sorted(
        pairs.values(), key=lambda pair: ("not", "unknown", "partly", "aligned").index(pair["verdict"])
    )
    verdict = _whole(listed)
    return {
        "verdict": verdict,
        "words": summary(verdict, listed, [unit.name for unit in found], met),
        "pairs": listed,
        "meetings": {name: value for name, value in met.items() if value},
        "do_not_transfer": list(dict.fromkeys(item for pair in listed for item in pair["do_not_transfer"])),
        "n_cells": most,
    }


def most_compared(n_pairs: int, max_cells: int) -> int:
    """Most cells of a cohort that are compared with another."""
    return max(FEWEST_DRAWN, int(max_cells / max(2.0, math.sqrt(n_pairs))))


def _pair(
    z: np.ndarray, a: Unit, b: Unit, views: Mapping[str, View], types: Types | None, most: int, seed: int
) -> dict[str, Any]:
    """Two cohorts by the modalities that both have, and by labels."""
    rng = np.random.default_rng(seed)

    def draw(cells: np.ndarray) -> np.ndarray:
        return np.sort(rng.permutation(cells)[:most])

    drawn = draw(a.cells), draw(b.cells)
    pair: dict[str, Any] = {
        "a": a.name,
        "b": b.name,
        "n_cells": [len(a.cells), len(b.cells)],
        "verdict": "unknown",
        "through": [],
        "mixing": mixing(z[np.concatenate(drawn)], np.repeat([False, True], [len(cells) for cells in drawn])),
        "modalities": {},
        "few": [],
        "labels": types.transfer(z, *drawn, rng) if types is not None else {},
    }
    avoid = [name for name, recall in pair["labels"].get("types", {}).items() if recall["across"] < RECALL]
    for modality in [m for m in a.modalities if m in b.modalities]:
        if modality not in views:
            pair["few"].append(f"{modality}: more than {MOST_COMPARED} cohorts")
            continue
        here = draw(a.modalities[modality]), draw(b.modalities[modality])
        if min(map(len, here)) < FEWEST:
            pair["few"].append(f"{modality}: {min(map(len, here))} cells, {FEWEST} are needed")
            continue
        cells = np.concatenate(here)
        second = np.repeat([False, True], [len(part) for part in here])
        view = views[modality]
        comparison = compare(
            z[cells], second, view, np.searchsorted(view.cells, cells), apart=APART, seed=seed
        )
        if comparison is None:
            pair["few"].append(f"{modality}: too few features vary in both")
            continue
        verdict, evidence = judge(comparison)
        pair["modalities"][modality] = {"verdict": verdict} | {
            name: [None if math.isnan(value) else value for value in values]
            for name, values in evidence.items()
        }
        if verdict == "unknown":
            continue
        for side, cohort in zip(comparison.sides, (a.name, b.name), strict=True):
            bad = [population for population in side if fate(population) != "meets"]
            all_bad = cells[np.concatenate([population.cells for population in bad])] if bad else cells[:0]
            avoid += [
                described(population, cohort)
                if types is None
                else types.name(population, cells, cohort, all_bad)
                for population in bad
            ]
    pair["verdict"] = of_modalities(evidence["verdict"] for evidence in pair["modalities"].values())
    if pair["verdict"] != "unknown" or of_labels(pair["labels"]) == "not":
        pair["verdict"] = weakest(pair["verdict"], of_labels(pair["labels"]))
    pair["do_not_transfer"] = list(dict.fromkeys(avoid))
    return pair


def _link(
    pairs: Mapping[tuple[int, int], dict[str, Any]],
    found: Sequence[Unit],
    met: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> None:
    """Judge pairs that cannot be judged by themselves by the best chain of those that can."""
    edges = {
        ends: KNOWN.index(pair["verdict"]) for ends, pair in pairs.items() if pair["verdict"] != "unknown"
    }
    through = {
        i: min(KNOWN.index(of_meeting(score["foscttm"])) for score in met[unit.name].values())
        for i, unit in enumerate(found)
        if met[unit.name]
    }
    for ends, pair in pairs.items():
        if pair["verdict"] != "unknown":
            continue
        apart = of_mixing(pair["mixing"])
        path = best_path(edges, through, *ends)
        if path is not None:
            pair["through"] = [found[i].name for i in path[1][1:-1]]
            pair["verdict"] = weakest(KNOWN[path[0]], apart, of_labels(pair["labels"]))
        elif apart == "not":
            pair["verdict"] = "not"


def _whole(pairs: Sequence[Mapping[str, Any]]) -> Verdict:
    """The verdict on all pairs, each weighed by its cells."""
    weight = dict.fromkeys((*KNOWN, "unknown"), 0.0)
    for pair in pairs:
        weight[pair["verdict"]] += sum(pair["n_cells"]) / sum(sum(other["n_cells"]) for other in pairs)
    if weight["not"] >= MOSTLY_NOT:
        return "not"
    if not pairs or weight["unknown"] > 0.5 or not (weight["aligned"] or weight["partly"] or weight["not"]):
        return "unknown"
    if not weight["not"] and not weight["partly"] and weight["aligned"] >= NEARLY_ALL:
        return "aligned"
    return "partly"


def _without_ties(z: np.ndarray, seed: int) -> np.ndarray:
    """The embedding, cells of equal position told apart by a trifle: whose neighbors they are is then chance."""
    scale = float(np.abs(z).max(initial=0.0)) or 1.0
    jittered: np.ndarray = z + 1e-9 * scale * np.random.default_rng(seed).standard_normal(z.shape)
    return jittered


def _coded(values: Labels, n_cells: int, name: str) -> tuple[np.ndarray, list[str]]:
    """Codes into the sorted texts of the values, -1 for none."""
    column = pd.Series(np.asarray(values, dtype=object))
    if len(column) != n_cells:
        raise InputError(f"{name}: found {len(column)} values for {n_cells} cells; give one for each")
    code, names = pd.factorize(column.astype(str).where(column.notna()), sort=True)
    return code, [str(text) for text in names]

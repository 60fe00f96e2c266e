"""What the verdict rests on: pairs of cohorts, the populations of each modality, labels, and modalities that meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from remadom.eval.report import plain
from remadom.eval.report.measures import pair_titled, titled
from remadom.eval.report.page import Part, Table, Text
from remadom.eval.verdicts import RESOLUTION

MEANS = {
    "resolution": "how far populations are apart by this modality, over the noise of one "
    f"({RESOLUTION:g} is needed to judge)",
    "mixing": "1 where the cohorts lie among each other in the embedding, 0 where they lie apart",
    "agreement": "of populations that are mixed, how well the cells around predict what was measured (1: perfectly)",
    "kept": "the same from cells of their own cohort",
    "meets": "share of the cells in populations that are mixed and agree",
    "forced": "share in populations that are mixed and do not agree: they were put where they do not belong",
    "left": "share in populations that have a like in the other cohort and lie apart from it",
    "private": "share in populations without a like in the other cohort",
}


def parts(trust: Mapping[str, Any]) -> list[Part]:
    """The section of ``evaluation.trust``; what it has beside the parts that are known follows as it is."""
    found: list[Part] = []
    if trust.get("do_not_transfer"):
        words = ", ".join(map(str, trust["do_not_transfer"]))
        found.append(Text(f"Do not transfer labels for these types: {words}.", warning=True))
    pairs = trust.get("pairs") or []
    if pairs:
        found += [_verdicts(pairs), *_modalities(pairs), *_labels(pairs)]
    met = [
        [cohort, pair_titled(pair), score.get("n_cells"), score.get("foscttm")]
        for cohort, scores in (trust.get("meetings") or {}).items()
        for pair, score in scores.items()
    ]
    if met:
        found.append(Table("Modalities of the same cells", ["cohort", "modalities", "cells", "FOSCTTM"], met))
    told = ("verdict", "words", "do_not_transfer", "pairs", "meetings", "n_cells")
    if trust.get("n_cells"):
        found.append(Text(f"At most {trust['n_cells']:,} cells of a cohort are compared with another."))
    return [*found, *plain.tables("Evidence", {k: v for k, v in trust.items() if k not in told})]


def _named(pair: Mapping[str, Any]) -> str:
    return f"{pair.get('a')} and {pair.get('b')}"


def _verdicts(pairs: list[Mapping[str, Any]]) -> Table:
    """A row a pair of cohorts."""
    columns = [
        "cohorts",
        "cells",
        "verdict",
        "mixing",
        "linked through",
        "not compared by",
        "do not transfer",
    ]
    keys = ("n_cells", "verdict", "mixing", "through", "few", "do_not_transfer")
    rows = [[_named(pair), *(plain.words(pair.get(key)) for key in keys)] for pair in pairs]
    return Table("Pairs of cohorts", *_filled(columns, rows))


def _modalities(pairs: list[Mapping[str, Any]]) -> Iterator[Part]:
    """A row for each modality that both cohorts of a pair have, and what the columns mean."""
    rows = [
        [_named(pair), titled(modality), told.get("verdict"), *(plain.words(told.get(key)) for key in MEANS)]
        for pair in pairs
        for modality, told in (pair.get("modalities") or {}).items()
    ]
    if rows:
        columns = ["cohorts", "by", "verdict", *MEANS]
        yield Table(
            "Populations that lie together (first cohort, second cohort)",
            columns,
            plain.cut(rows, len(columns)),
        )
        yield Table("What these say", ["", "meaning"], [[name, words] for name, words in MEANS.items()])


def _labels(pairs: list[Mapping[str, Any]]) -> Iterator[Part]:
    """A row for each label that both cohorts of a pair have, the worst first."""
    rows = [
        [_named(pair), name, recall.get("across"), recall.get("within")]
        for pair in pairs
        for name, recall in ((pair.get("labels") or {}).get("types") or {}).items()
    ]
    if rows:
        columns = ["cohorts", "label", "given back by the other cohort", "by its own"]
        rows.sort(key=lambda row: row[2])
        title = "Share of the cells whose label their nearest cells give back"
        yield Table(title, columns, plain.cut(rows, len(columns)))


def _filled(columns: list[str], rows: list[list[Any]]) -> tuple[list[str], list[list[Any]]]:
    """A table without the columns that say nothing in any row."""
    kept = [at for at in range(len(columns)) if any(row[at] not in (None, "") for row in rows)]
    return [columns[at] for at in kept], plain.cut([[row[at] for at in kept] for row in rows], len(kept))

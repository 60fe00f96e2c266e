"""The section of the report that says what the verdict rests on."""

from __future__ import annotations

from typing import Any

from remadom.eval.consistency import Comparison
from remadom.eval.report import evidence, plain
from remadom.eval.report.page import Table, Text
from remadom.eval.verdicts import judge


def pair(name: str = "two", across: float = 0.9) -> dict[str, Any]:
    return {
        "a": "one",
        "b": name,
        "n_cells": [70, 80],
        "verdict": "aligned",
        "through": [],
        "mixing": [0.8, 0.7],
        "modalities": {"rna": {"verdict": "aligned", "resolution": [60.0, None], "private": [0.0, 0.25]}},
        "few": [],
        "labels": {"accuracy": [0.9, 0.8], "types": {"B": {"across": across, "within": 1.0}}},
        "do_not_transfer": [],
    }


def tables(trust: dict[str, Any]) -> dict[str, Table]:
    return {part.title: part for part in evidence.parts(trust) if isinstance(part, Table)}


def test_pairs_modalities_and_labels_have_rows_of_their_own():
    found = tables(
        {"pairs": [pair(), pair("three", 0.4)], "meetings": {"one": {"rna-adt": {"foscttm": 0.1}}}}
    )
    told = found["Pairs of cohorts"]
    assert list(told.columns) == ["cohorts", "cells", "verdict", "mixing"]  # the others say nothing
    assert told.rows[0] == ["one and two", "70, 80", "aligned", "0.8, 0.7"]
    populations = next(table for title, table in found.items() if title.startswith("Populations"))
    row = dict(zip(populations.columns, populations.rows[0], strict=True))
    assert (row["by"], row["private"], row["kept"]) == ("RNA", "0, 0.25", None)
    labels = found["Share of the cells whose label their nearest cells give back"]
    assert [row[0] for row in labels.rows] == ["one and three", "one and two"]  # the worst first
    assert found["Modalities of the same cells"].rows == [["one", "RNA and ADT", None, 0.1]]


def test_many_rows_are_cut_and_what_is_not_known_is_shown():
    found = tables({"pairs": [pair(str(i)) for i in range(plain.MOST_ROWS + 5)], "other": {"x": 7}})
    assert all(len(table.rows) <= plain.MOST_ROWS + 1 for table in found.values())
    assert found["Pairs of cohorts"].rows[-1][0] == "and 5 more"
    assert found["Evidence: other"].rows == [["x", 7]]
    assert evidence.parts({}) == []
    (said,) = evidence.parts({"do_not_transfer": ["B", "NK"]})
    assert isinstance(said, Text)
    assert "B, NK" in said.words


def test_all_that_a_judgment_finds_is_explained():
    _, found = judge(Comparison(([], []), (9.0, 9.0)))
    assert set(found) == set(evidence.MEANS)

"""The report of a mapping: one HTML file, made from what is in its folder alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remadom.errors import InputError
from remadom.eval.report import plain
from remadom.eval.report.folder import FIGURES
from remadom.eval.report.page import Figure, Part, Report, Section, Table, Text, render_report
from remadom.utils.outputs import MAPPING, REPORT, RunDir

CLUSTERS = "by_cluster"
SCORES = (
    "labeled",
    "accuracy",
    "balanced_accuracy",
    "accuracy_of_named",
    "called_unknown",
    "calibration_error",
    "novel_cells",
    "novel_called_unknown",
    "novel_auroc",
)


def write_mapping_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a mapping from the files in its folder.

    Parameters
    ----------
    folder
        Where ``mapping.json`` is.
    out
        The HTML file; ``report.html`` in the folder by default.

    Raises
    ------
    InputError
        There is no mapping, or a file of it cannot be shown.
    """
    run = RunDir(folder)
    if not (run / MAPPING).exists():
        raise InputError(f"{run.path} has no {MAPPING}; expected the folder of a mapping")
    found: dict[str, Any] = run.json(MAPPING)
    listed = run.figures / FIGURES
    figures = json.loads(listed.read_text(encoding="utf-8")) if listed.exists() else []
    name = Path(found["query"]["data"] or "cells").name
    path = run.path / REPORT if out is None else Path(out)
    report = Report(
        f"remadom: {name} on a reference", (), _lines(found), _sections(found, figures, run.figures)
    )
    render_report(report, path)
    return path


def _lines(found: Mapping[str, Any]) -> list[str]:
    quality = found["quality"]["words"]
    lines = [f"{quality[:1].upper()}{quality[1:]}."]
    for level, scores in found["labels"].items():
        if "accuracy" in scores:
            lines.append(
                f"{level}: {scores['accuracy']:.1%} of {scores['labeled']:,} known labels are right; the confidence is "
                f"off by {scores['calibration_error']:.1%} on average."
            )
        if "novel_cells" in scores:
            lines.append(
                f"{level}: {scores['novel_called_unknown']:.0%} of the {scores['novel_cells']:,} cells of types that "
                "the reference does not have are called unknown."
            )
    return lines


def _sections(found: Mapping[str, Any], figures: list[dict[str, str]], folder: Path) -> list[Section]:
    def of(section: str) -> list[Part]:
        return [
            Figure(entry["title"], folder / entry["file"], entry.get("caption", ""))
            for entry in figures
            if entry.get("section") == section
        ]

    quality = {k: v for k, v in found["quality"].items() if k not in ("words", CLUSTERS)}
    clusters = found["quality"].get(CLUSTERS)
    return [
        Section("Reference and query", [*of("embedding"), *_facts(found)]),
        Section("Features", plain.tables("Features of the reference in the query", found["features"])),
        Section("How the cells fit", plain.tables("Share unlike the reference", quality)),
        *(
            Section(f"Labels: {level}", [*_labels(scores), *of(level)])
            for level, scores in found["labels"].items()
        ),
        Section(
            "How the cells fit, by cluster of the reference", plain.tables("Clusters", clusters), folded=True
        ),
        Section("What was decided", [Text(words) for words in found["notes"]]),
        Section("Seconds", plain.tables("Seconds", found["seconds"]), folded=True),
    ]


def _facts(found: Mapping[str, Any]) -> list[Part]:
    facts = {
        "reference cells": found["reference"]["cells"],
        "query cells": found["query"]["cells"],
        "modalities of the query": found["query"]["modalities"],
        "new modalities": found["query"]["new_modalities"] or None,
        "new batches": found["query"]["new_batches"] or None,
        "method": found["method"],
    }
    rows = [[name, plain.words(value)] for name, value in facts.items() if value is not None]
    return [Table("The mapping", ["", "value"], rows)]


def _labels(scores: Mapping[str, Any]) -> list[Part]:
    rows = [[name.replace("_", " "), scores[name]] for name in SCORES if name in scores]
    told = {k: v for k, v in scores.items() if k in ("confidence", "second_opinion_agrees")}
    return [
        Table("Beside the labels that the query has", ["", "value"], rows),
        *plain.tables("Cells by label", {"cells": scores["cells"]}),
        *plain.tables("Confidence", told),
    ]

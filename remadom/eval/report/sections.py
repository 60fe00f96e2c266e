"""The sections of a report, each from the part of the run folder that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from remadom.eval.report import evidence, imputed, plain
from remadom.eval.report.folder import RunFolder
from remadom.eval.report.measures import measure, pair_titled, titled
from remadom.eval.report.page import Code, Figure, Part, Section, Table, Text

OWN = ("integration", "modalities", "imputation", "trust", "metrics")
"""Parts of the evaluation that have a section; every other is about the problem type."""


def sections(run: RunFolder) -> list[Section]:
    """All sections, in the order of a reader."""
    named = {
        "data": "Data and pattern",
        "trust": "Evidence for the verdict",
        "integration": "Embedding",
        "imputation": "Imputation beside its baselines",
        "alignment": "Alignment",
        "bridge": "Bridge",
        "training": "Training",
    }
    modalities = list(run.run.get("modalities") or {})
    placed = {*named, *modalities}
    made: dict[str, list[Part]] = {
        "data": _data(run),
        "trust": evidence.parts(run.evaluation.get("trust") or {}),
        "integration": _integration(run),
        "imputation": _imputation(run),
        "alignment": _alignment(run),
        "bridge": [*plain.tables("Edges", {k: v for k, v in run.bridge.items() if k != "refreshes"})],
        "training": _training(run),
    }
    problem = [
        Section(f"Problem: {name}", [*plain.tables(name, value), *_figures(run, name)])
        for name, value in run.evaluation.items()
        if name not in OWN
    ]
    placed |= {name for name in run.evaluation if name not in OWN}
    others = [shown.figure for shown in run.figures if shown.section not in placed]
    found = [
        Section(title, [*made[name], *_figures(run, name)], folded=name in ("alignment", "training"))
        for name, title in named.items()
    ]
    return [
        *found[:4],
        *problem,
        *found[4:6],
        Section("Figures", others),
        *(Section(titled(name), _modality(run, name), folded=True) for name in modalities),
        found[6],
        Section("Configuration", [Code(run.config)] if run.config else [], folded=True),
        Section("Warnings", _warnings(run)),
        Section("Versions", plain.tables("Packages", run.versions), folded=True),
    ]


def _figures(run: RunFolder, section: str) -> list[Figure]:
    return [shown.figure for shown in run.figures if shown.section == section]


def _data(run: RunFolder) -> list[Part]:
    held = run.run.get("modalities") or {}
    rows = [[titled(name), size.get("cells"), size.get("features")] for name, size in held.items()]
    facts = {"data": run.run.get("data"), "cells": run.run.get("n_cells"), "seed": run.run.get("seed")}
    return [
        Table("The run", ["", "value"], [[key, value] for key, value in facts.items() if value is not None]),
        Table("Modalities", ["modality", "cells", "features"], rows),
        *_diagnosis(run.diagnosis),
    ]


def _diagnosis(found: Mapping[str, Any]) -> list[Part]:
    """The first page; what it has beside the parts that are known follows as it is."""
    problem, links = found.get("problem") or {}, found.get("links") or {}
    parts: list[Part] = []
    if problem:
        parts.append(Text(f"Problem type: {problem.get('type')}. {_sentence(problem.get('why'))}"))
        parts += [Text(f"Also {kind}. {_sentence(why)}") for kind, why in (problem.get("also") or {}).items()]
    parts += [Text(_sentence(words), warning=True) for words in found.get("checks") or []]
    parts += [Text(f"Cannot be recovered: {words}.", warning=True) for words in found.get("lost") or []]
    parts += plain.tables("Cohorts", found.get("cohorts"))
    values = {titled(name): value for name, value in (found.get("modalities") or {}).items()}
    if values:
        columns = list(dict.fromkeys(key for value in values.values() for key in value))
        rows = [[name, *(plain.words(value.get(key)) for key in columns)] for name, value in values.items()]
        parts.append(Table("Values", ["", *(key.replace("_", " ") for key in columns)], rows))
    parts += plain.tables(
        "Links", {key.replace("_", " "): plain.words(value) for key, value in links.items()}
    )
    parts += plain.tables("Settings chosen for this data", found.get("settings"))
    told = ("problem", "links", "checks", "lost", "cohorts", "modalities", "settings")
    return [*parts, *plain.tables("Diagnosis", {k: v for k, v in found.items() if k not in told})]


def _sentence(words: Any) -> str:
    """A sentence with a capital and a full stop."""
    text = str(words)
    return f"{text[:1].upper()}{text[1:]}."


def _integration(run: RunFolder) -> list[Part]:
    pairs = run.evaluation.get("modalities") or {}
    return [
        measured("Scores of the embedding", run.evaluation.get("integration") or {}),
        measured("Metrics that the configuration names", run.evaluation.get("metrics") or {}),
        *(
            measured(pair_titled(pair), scores)
            for pair, scores in pairs.items()
        ),
    ]  # fmt: skip


def measured(title: str, scores: Mapping[str, Any]) -> Table:
    """Measures with what they say; higher is better unless the words say otherwise."""
    rows = []
    for name, value in scores.items():
        known = measure(name)
        better = f" ({known.better} is better)" if known.better else ""
        rows.append([known.title, plain.words(value), f"{known.words}{better}".strip()])
    return Table(title, ["measure", "value", "what it says"], rows)


def _imputation(run: RunFolder) -> list[Part]:
    held = run.evaluation.get("imputation") or {}
    return list(chain.from_iterable(imputed.parts(name, scores) for name, scores in held.items()))


def _alignment(run: RunFolder) -> list[Part]:
    """How each term of the loss fell, and what a head says of each pair of groups."""
    rows = [
        [
            name,
            term.get("weight"),
            *((term.get(when) or {}).get("loss") for when in ("first_epoch", "last_epoch", "final")),
            (term.get("last_epoch") or {}).get("grad_norm"),
        ]
        for name, term in run.alignment.items()
    ]
    ends = ("first epoch", "last epoch", "after training")
    parts: list[Part] = [
        Table("Terms", ["term", "weight", *ends, "gradient as a multiple of the ELBO's"], rows)
    ]
    for name, term in run.alignment.items():
        parts += plain.tables(f"{name}: cells of each group", term.get("groups"))
        parts += plain.tables(f"{name}: pairs of groups", term.get("by_pair"))
    return parts


def _training(run: RunFolder) -> list[Part]:
    names = ("epochs", "stopped", "best_epoch", "seconds", "cells_per_s")
    facts = [[name.replace("_", " "), run.run.get(name)] for name in names if run.run.get(name) is not None]
    train, val = run.metrics.get("train") or {}, run.metrics.get("val") or {}
    first = run.history[0].get("train") or {} if run.history else {}
    rows = [[name, first.get(name), value, val.get(name)] for name, value in train.items()]
    return [
        Table("How it went", ["", "value"], facts),
        Table(
            "Losses, nats per cell",
            ["", "training, first epoch", "training, best epoch", "validation, best epoch"],
            rows,
        ),
    ]


def _modality(run: RunFolder, name: str) -> list[Part]:
    """What there is of one modality: its size, how well it is reconstructed and imputed, its figures."""
    size = run.run["modalities"][name]
    cells, total = size.get("cells", 0), run.run.get("n_cells") or 0
    share = f" ({cells / total:.0%} of all)" if total else ""
    parts: list[Part] = [Text(f"{cells:,} cells{share}, {size.get('features', 0):,} features.")]
    losses = {
        title: (run.metrics.get(part) or {}).get(f"elbo.recon.{name}")
        for part, title in (("train", "training cells"), ("val", "validation cells"))
    }
    rows = [[title, value] for title, value in losses.items() if value is not None]
    parts.append(Table("Reconstruction, nats per cell", ["", "value"], rows))
    scores = (run.evaluation.get("imputation") or {}).get(name)
    if scores is not None:
        parts += imputed.parts(name, scores)
    for pair, found in (run.evaluation.get("modalities") or {}).items():
        if name in pair.split("-"):
            parts.append(measured(pair_titled(pair), found))
    return [*parts, *_figures(run, name)]


def _warnings(run: RunFolder) -> list[Part]:
    if run.warnings is None:
        return []
    return [Text(words) for words in run.warnings] or [Text("Nothing was warned of.")]

"""Imputation scores beside their baselines: a table, and who does better, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from remadom.eval.intervals import SHIFT
from remadom.eval.report.measures import best, known, measure, method, titled
from remadom.eval.report.page import Part, Table, Text, shown

OURS = "remadom"
MAIN, MAIN_BINARY = ("pearson", "rmse"), ("auroc_cell", "auprc_cell")
"""The scores that a sentence names: of counts, and of what is open or closed."""


def line(modality: str, scores: Mapping[str, Any]) -> str:
    """Scores of a held-out modality beside the training mean, and which baseline does better."""
    mean = scores.get("baselines", {}).get("mean", {})

    def beside(name: str) -> str:
        return f" (training mean: {mean[name]:.3f})" if known(mean.get(name)) else ""

    said = []
    if known(scores.get("auroc_cell")):
        said.append(f"AUROC {scores['auroc_cell']:.3f} within a cell{beside('auroc_cell')}")
    else:
        if known(scores.get("rmse")):
            said.append(f"RMSE {scores['rmse']:.3f} on {scores.get('scale', 'log counts')}{beside('rmse')}")
        if known(scores.get("pearson")):
            said.append(f"Pearson {scores['pearson']:.3f}")
    return f"Held-out {titled(modality)}: {', '.join(said) or 'no score is defined'}.{_judgment(scores)}"


def _judgment(scores: Mapping[str, Any]) -> str:
    names = scores.get("baselines") or {}
    if not names:
        return ""
    main = MAIN_BINARY if known(scores.get("auroc_cell")) else MAIN
    ahead = leads(scores)
    beaten = dict.fromkeys([*(scores.get("beaten_by") or ()), *ahead])
    if not beaten:
        return f" No baseline does better ({', '.join(map(method, names))})."
    said = []
    for name in beaten:
        on = sorted(ahead.get(name, ()), key=lambda key: key not in main)[:2]
        said.append(f"{method(name)} does better{': ' if on else ''}{_against(scores, name, on)}")
    return f" {'; '.join(said)}."


def leads(scores: Mapping[str, Any]) -> dict[str, list[str]]:
    """By baseline, the scores in which it is better; baselines that are ahead in none are left out."""
    found = {}
    for name, theirs in (scores.get("baselines") or {}).items():
        on = [key for key, value in theirs.items() if _is_better(key, value, scores.get(key))]
        if on:
            found[name] = on
    return found


def parts(modality: str, scores: Mapping[str, Any]) -> list[Part]:
    """What was held out, the table of scores, and a sentence for each baseline that is ahead in one."""
    baselines = scores.get("baselines") or {}
    said = [f"{scores.get('n_cells', 0):,} cells, {scores.get('n_features', 0):,} features"]
    if scores.get("from"):
        said.append(f"predicted from {', '.join(map(titled, scores['from']))}")
    if scores.get("held_out"):
        said.append(f"held out: {scores['held_out']}")
    found: list[Part] = [Text("; ".join(said) + "."), _table(modality, scores, baselines)]
    ahead = leads(scores)
    for name, on in ahead.items():
        found.append(
            Text(f"The baseline {method(name)} is better in {_against(scores, name, on)}.", warning=True)
        )
    if baselines and not ahead:
        found.append(Text("No baseline is better in any of these scores."))
    if known(scores.get("coverage_90")):
        width = scores.get("interval_width")
        words = f", mean width {shown(width)}" if known(width) else ""
        found.append(
            Text(f"The 90 % intervals hold {scores['coverage_90']:.1%} of the held-out values{words}.")
        )
    if scores.get("shift_unknown"):
        found.append(
            Text(
                f"Some of these cells are of batches without measured {titled(modality)}, and so few batches have it "
                "that they hardly tell how far another one lies from them. The intervals of these cells assume at "
                f"least what is usual between studies: a factor of {math.exp(SHIFT):.1f} either way for each feature "
                "(one standard deviation).",
                warning=True,
            )
        )
    return found


def _table(modality: str, scores: Mapping[str, Any], baselines: Mapping[str, Any]) -> Table:
    columns = [key for key in scores if known(scores[key]) and measure(key).better]
    columns += [key for theirs in baselines.values() for key in theirs if measure(key).better]
    columns = list(dict.fromkeys(columns))
    everyone = {OURS: scores, **{method(name): theirs for name, theirs in baselines.items()}}
    rows = [[name, *(found.get(key) for key in columns)] for name, found in everyone.items()]
    signs = {"higher": "↑", "lower": "↓"}
    heads = [f"{measure(key).title} {signs[measure(key).better]}" for key in columns]
    places = {(row, at + 1) for at, key in enumerate(columns) for row in best(key, [r[at + 1] for r in rows])}
    return Table(
        f"Held-out {titled(modality)} (↑ higher is better, ↓ lower is better)",
        ["", *heads],
        rows,
        frozenset(places),
    )


def _against(scores: Mapping[str, Any], name: str, on: Sequence[str]) -> str:
    theirs = scores["baselines"].get(name, {})
    return ", ".join(
        f"{measure(key).title} {theirs[key]:.3f}"
        + (f" against {scores[key]:.3f}" if known(scores.get(key)) else "")
        for key in on
    )


def _is_better(name: str, theirs: Any, ours: Any) -> bool:
    better = measure(name).better
    if not better or not known(theirs) or not known(ours):
        return False
    return bool(theirs > ours if better == "higher" else theirs < ours)

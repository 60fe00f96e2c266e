"""Print one table of what finished runs measured, a row a run: remadom's scores beside the best baseline's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from remadom.cli.telling import told
from remadom.errors import InputError
from remadom.utils.outputs import METRICS

COLUMNS = ("bio", "batch", "total")


@told
def main(runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")]) -> None:
    """Print one table of what finished runs measured."""
    table = Table(
        "run", "problem", *COLUMNS, "FOSCTTM", "label transfer", "imputation (best baseline)", "cohorts", "s"
    )
    for run in runs:
        if not (run / METRICS).is_file():
            raise InputError(f"{run}: found no {METRICS}; expected the folder of a finished run")
        metrics = json.loads((run / METRICS).read_text())
        table.add_row(run.name, metrics["run"]["problem"], *_cells(metrics))
    Console(soft_wrap=True, width=200).print(table)


def _cells(metrics: dict[str, Any]) -> list[str]:
    evaluation = metrics["evaluation"]
    scores, pairs = evaluation["integration"], evaluation["modalities"]
    transfers = [
        value
        for pair in pairs.values()
        for name, value in pair.items()
        if name.startswith("label_transfer") and not name.endswith("balanced")
    ]
    return [
        *(_number(scores.get(name)) for name in COLUMNS),
        " ".join(_number(pair.get("foscttm")) for pair in pairs.values()),
        f"{min(transfers):.2f} to {max(transfers):.2f}" if transfers else "-",
        "; ".join(_imputed(name, found) for name, found in evaluation["imputation"].items()),
        (evaluation.get("trust") or {}).get("verdict", "-"),
        f"{metrics['run']['seconds']:.0f}",
    ]


def _imputed(name: str, found: dict[str, Any]) -> str:
    score = "pearson" if "pearson" in found else "auroc_feature"
    others = {other: scores[score] for other, scores in found["baselines"].items() if score in scores}
    if not others:
        return f"{name} {_number(found.get(score))}"
    best = max(others, key=others.__getitem__)
    title = {"pearson": "r", "auroc_feature": "AUROC"}[score]
    return f"{name} {title} {_number(found.get(score))} ({best} {others[best]:.3f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    typer.run(main)

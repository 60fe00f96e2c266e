"""Imputation on single-modality cohorts without a bridge and with each provider: one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from remadom import run
from remadom.bridges import BRIDGES
from remadom.cli.telling import told
from remadom.config.load import gather, overlay
from remadom.data.mock import write_mock
from remadom.errors import InputError

SCORES = ("pearson", "auroc_feature")
"""What is shown: of counts, and of open peaks."""


@told
def main(
    data: Annotated[Path | None, typer.Argument(help="File; by default a mock with a bridge.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="Such as optim.epochs=30; again for more.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/compare_bridges"),
    seed: Annotated[int, typer.Option(help="Seed of the data and the runs.")] = 0,
) -> None:
    """Train without a bridge and with each provider, and compare what is imputed."""
    if data is None:
        data = out / "bridge.h5ad"
        write_mock(data, None, "bridge", modalities=["rna", "adt"], seed=seed, links_out=out / "links.csv")
    blocks: dict[str, dict[str, Any]] = {"none": {}} | {name: {"provider": name} for name in BRIDGES}
    if (out / "links.csv").exists():
        blocks["linked_features"]["linked_features"] = {"table": str(out / "links.csv")}
    blocks["seeded"]["seeds"] = "cell_type"  # which tells it the labels: an upper bound
    table = Table("provider", "edges", "same label", "FOSCTTM", "imputation", "s")
    for name, block in blocks.items():
        raw = overlay(
            {
                "data": {"path": str(data)},
                "optim": {"seed": seed},
                "bridge": block,
                "evaluation": {"figures": False},
                "logging": {"run_dir": str(out / name)},
            },
            gather(None, setting or []),
        )
        try:
            metrics = run.train(raw, overwrite=True).metrics
        except InputError as error:
            table.add_row(name, "-", "-", "-", str(error)[:80], "-")
            continue
        evaluation, edges = metrics["evaluation"], metrics["bridge"]
        imputed = [
            f"{modality} {score} {scores[score]:.3f}"
            for modality, scores in evaluation["imputation"].items()
            for score in SCORES
            if score in scores
        ]
        agreement = edges.get("label_agreement")
        table.add_row(
            name,
            str(edges.get("n_edges", "-")),
            "-" if agreement is None else f"{agreement:.2f}",
            " ".join(
                f"{pair['foscttm']:.3f}" for pair in evaluation["modalities"].values() if "foscttm" in pair
            ),
            ", ".join(imputed),
            f"{metrics['run']['seconds']:.0f}",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    typer.run(main)

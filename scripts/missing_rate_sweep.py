"""Imputation error against the share of values that are missing, beside the baselines: a table and a figure."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from remadom import run
from remadom.cli.telling import told
from remadom.config.load import gather, overlay
from remadom.data.mock import write_mock
from remadom.eval.figures import draw_sweep

RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
METHODS = ("remadom", "knn", "ridge", "mean")


@told
def main(
    words: Annotated[list[str] | None, typer.Argument(help="Settings such as optim.epochs=30.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/missing_rate"),
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 2,
    cells: Annotated[int, typer.Option(help="Cells of the mock data.")] = 1200,
) -> None:
    """Train on mosaics of which ever more is missing, and score what was imputed against the truth."""
    errors: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    table = Table("modality", "missing", "seed", *METHODS, title="NRMSE (AUROC for peaks)")
    for column, rate in enumerate(RATES):
        for seed in range(seeds):
            name = f"missing_{rate:.0%}_{seed}".replace("%", "")
            write_mock(out / f"{name}.h5ad", None, "mosaic", missing_rate=rate, seed=seed, cells=cells)
            raw = overlay(
                {
                    "data": {"path": str(out / f"{name}.h5ad")},
                    "optim": {"seed": seed},
                    "evaluation": {"figures": False},
                    "logging": {"run_dir": str(out / name)},
                },
                gather(None, words or []),
            )
            found = run.train(raw, overwrite=True).metrics["evaluation"]["imputation"]
            for modality, scores in found.items():
                score = "nrmse" if "nrmse" in scores else "auroc_feature"
                methods = {"remadom": scores, **scores["baselines"]}
                for method, values in methods.items():
                    rows = errors[f"{modality} {score}"].setdefault(
                        method, np.full((seeds, len(RATES)), np.nan)
                    )
                    rows[seed, column] = values.get(score, np.nan)
                shown = [f"{methods[m][score]:.3f}" if m in methods else "-" for m in METHODS]
                table.add_row(modality, f"{rate:.0%}", str(seed), *shown)
    Console(width=120).print(table)
    for title, methods in errors.items():
        modality, score = title.split()
        path = out / f"sweep_{modality}.png"
        draw_sweep(
            RATES,
            methods,
            path,
            name=score.upper(),
            over="share of values that are missing, %",
            title=modality,
        )
        print(f"figure: {path}")


if __name__ == "__main__":
    typer.run(main)

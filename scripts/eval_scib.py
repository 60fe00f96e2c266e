"""Print the scores of scib-metrics beside remadom's own, for the embeddings of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told
from remadom.eval.scib import OURS
from remadom.evaluating import scib_of


@told
def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    max_cells: Annotated[int, typer.Option(help="Most cells, drawn at random.")] = 5000,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Print the scores of scib-metrics beside remadom's own, on the same cells with a label and a batch."""
    for run in runs:
        theirs, own = scib_of(run, max_cells=max_cells, seed=seed)
        print(f"{run}: {own['n_cells']} cells\n  {'scib-metrics':<36} {'its':>7} {'own':>7}")
        for name, score in theirs.items():
            print(f"  {name:<36} {score:7.4f}" + (f" {own[OURS[name]]:7.4f}" if name in OURS else ""))


if __name__ == "__main__":
    typer.run(main)

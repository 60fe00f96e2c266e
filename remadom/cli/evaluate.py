"""``remadom evaluate``: measure a finished run anew, or any embedding of any tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from remadom.cli.telling import told
from remadom.errors import InputError


@told
def command(
    run: Annotated[Path | None, typer.Argument(help="Folder of a finished run.", show_default=False)] = None,
    embedding: Annotated[
        Path | None,
        typer.Option(help="An .npz with z_bio (or z) and obs_names, of any tool.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="File with the labels and batches.", show_default=False)
    ] = None,
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")] = "cell_type",
    batch_key: Annotated[str, typer.Option(help="Column of obs with the batches.")] = "batch",
    max_cells: Annotated[int, typer.Option(min=2, help="Most cells that are measured.")] = 5000,
    seed: Annotated[int, typer.Option(help="Of the cells drawn.")] = 0,
    scib: Annotated[bool, typer.Option("--scib", help="Add scib-metrics' own values.")] = False,
) -> None:
    """Measure a run anew (its files are written again), or an embedding (a JSON is printed)."""
    if (run is None) == (embedding is None):
        raise InputError("give the folder of a run, or --embedding with --data")
    if embedding is not None and data is None:
        raise InputError("--embedding needs --data: the file with the labels and batches of its cells")
    from remadom import evaluating  # the libraries behind it take seconds to import

    if embedding is None:
        from remadom.cli.train import show_results

        assert run is not None
        show_results(evaluating.evaluate(run, data, scib=scib))
        return
    found: dict[str, Any] = evaluating.evaluate_embedding(
        embedding,
        data,
        label_key=label_key,
        batch_key=batch_key,
        max_cells=max_cells,
        seed=seed,
        scib=scib,
    )
    typer.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(command)

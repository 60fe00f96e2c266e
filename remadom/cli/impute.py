"""``remadom impute``: the values of a modality for every cell, by a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder or a checkpoint.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="File with the cells; by default the one that was trained on.", show_default=False
        ),
    ] = None,
    *,
    modality: Annotated[str, typer.Option(help="What to impute, such as adt.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The .h5ad or .zarr to write.", show_default=False)],
    depth: Annotated[
        float | None,
        typer.Option(help="Total that every cell is scaled to; by default its own.", show_default=False),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Batch as which all cells are decoded: own, average, or its name.")
    ] = "own",
    samples: Annotated[int, typer.Option(min=0, help="Posterior samples, a layer each.")] = 0,
    intervals: Annotated[
        bool, typer.Option(help="Layers lower and upper: a 90 % interval of each value.")
    ] = True,
    missing: Annotated[bool, typer.Option("--missing", help="Only cells that lack the modality.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Write what a trained model expects of a modality: cells x features, with intervals."""
    from remadom import imputing  # the libraries behind it take seconds to import

    path = imputing.impute(
        checkpoint,
        modality,
        out,
        data,
        depth=depth,
        batch=batch,
        samples=samples,
        intervals=intervals,
        missing=missing,
        overwrite=overwrite,
    )
    typer.echo(f"{modality}: {path}")


if __name__ == "__main__":
    typer.run(command)

"""``remadom export``: the embedding, and imputed values, in a copy of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The .h5ad, .h5mu or .zarr to write.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option(help="File to copy; by default the one that was trained on.", show_default=False),
    ] = None,
    impute: Annotated[
        list[str] | None,
        typer.Option(help="Modality whose expected values go in too; again for more.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Copy the data with the embedding in obsm["X_remadom"], for scanpy and muon to go on from."""
    from remadom import exporting  # the libraries behind it take seconds to import

    path = exporting.export(run, out, data, impute=impute or (), overwrite=overwrite)
    typer.echo(f"data with the embedding: {path}")


if __name__ == "__main__":
    typer.run(command)

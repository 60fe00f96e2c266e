"""``remadom save``: a run's model as a folder that can be given away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    *,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels", help="Column of obs whose labels go with it (repeatable); the run's own by default."
        ),
    ] = None,
    cells: Annotated[
        bool,
        typer.Option(help="Keep embedding, names and labels of the cells, for mapping others onto them."),
    ] = True,
    data: Annotated[
        Path | None,
        typer.Option(help="File with the cells; by default the one that was trained on.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in the folder.")] = False,
) -> None:
    """Write a run's model as safetensors and JSON, for every command that takes a run."""
    from remadom import sharing  # the libraries behind it take seconds to import

    typer.echo(f"model: {sharing.save(run, out, labels=labels, cells=cells, data=data, overwrite=overwrite)}")


if __name__ == "__main__":
    typer.run(command)

"""``remadom embed``: the shared embedding of cells by a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder or a checkpoint.")],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="File with the cells; by default the one that was trained on.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The .npz to write; by default beside the checkpoint.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Embed cells with a trained model."""
    from remadom import run  # the libraries behind it take seconds to import

    typer.echo(f"embedding: {run.embed(checkpoint, data, out=out, overwrite=overwrite)}")


if __name__ == "__main__":
    typer.run(command)

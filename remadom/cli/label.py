"""``remadom label``: labels that some cells of a run have, given to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run folder, a checkpoint or a saved model.", show_default=False)
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="File with the cells and their labels; by default the one that was trained on.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The .csv to write, and a .json beside it.", show_default=False)],
    column: Annotated[
        str | None,
        typer.Option(
            help="Column of obs, empty where a cell has no label; by default evaluation.label_key.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output.")] = False,
) -> None:
    """Give the labels that some cells of a run have to the others, with a confidence, and check them."""
    from remadom import labeling  # the libraries behind it take seconds to import

    found = labeling.label(checkpoint, out, column, data, overwrite=overwrite).summary()
    listed = ", ".join(f"{name} {cells:,}" for name, cells in found["cells"].items())
    typer.echo(f"cells without a label: {listed or 'none'}")
    for batch, about in found["batches"].items():
        typer.echo(
            f"{batch}: {about['cells']:,} cells, mean confidence {about['confidence']:.0%}, "
            f"{about['unknown']:.0%} unknown"
        )
    check = found["check"]
    if "accuracy" in check:
        typer.echo(
            f"check, {check['how']}: {check['accuracy']:.1%} of {check['labeled']:,} known labels are right, "
            f"confidence is off by {check['calibration_error']:.1%}"
        )
    typer.echo(f"table: {out}")


if __name__ == "__main__":
    typer.run(command)

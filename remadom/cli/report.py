"""``remadom report``: the report of a run made anew, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write; by default report.html in the folder of the run, and comparison.html here "
            "for several.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out.")] = False,
) -> None:
    """Write the report of a run anew from its folder, or one page with several runs side by side."""
    from remadom import reporting  # the libraries behind it take a second to import

    typer.echo(f"report: {reporting.report(runs, out, overwrite=overwrite)}")


if __name__ == "__main__":
    typer.run(command)

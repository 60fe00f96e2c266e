"""The console script ``remadom`` and its commands."""

from __future__ import annotations

from typing import Annotated

import typer

import remadom
from remadom.cli import (
    bridge,
    checkpoint,
    config,
    demo,
    diagnose,
    embed,
    evaluate,
    export,
    impute,
    label,
    mapref,
    mock,
    report,
    save,
    train,
)
from remadom.cli.telling import NAMED

app = typer.Typer(
    name="remadom",
    help="One shared embedding from single-cell RNA, ATAC and protein measurements.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (
    diagnose,
    train,
    embed,
    impute,
    label,
    evaluate,
    report,
    export,
    save,
    mapref,
    bridge,
    mock,
    demo,
):
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(config.app, name="config")
app.add_typer(checkpoint.app, name="checkpoint")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"remadom {remadom.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import a module (or a .py file) of your own that registers components; again for more.",
            show_default=False,
        ),
    ] = None,
) -> None:
    NAMED.set(tuple(modules or ()))


def main() -> None:
    """Entry point of the console script."""
    app()

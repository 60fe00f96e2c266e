"""The console script ``remadom`` and its commands."""

from __future__ import annotations

import typer

import remadom
from remadom.cli import bridge, config, demo, diagnose, embed, evaluate, export, impute, mock, report, train

app = typer.Typer(
    name="remadom",
    help="One shared embedding from single-cell RNA, ATAC and protein measurements.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (diagnose, train, embed, impute, evaluate, report, export, bridge, mock, demo):
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(config.app, name="config")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"remadom {remadom.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    app()

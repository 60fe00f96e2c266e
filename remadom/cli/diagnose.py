"""``remadom diagnose``: what a file is, what can be learned from it, and what a run would do and take."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from remadom.cli.telling import told
from remadom.cli.train import ConfigFile, Words, raw_config, show_forecast, show_plan
from remadom.errors import InputError

if TYPE_CHECKING:
    from remadom.config.build import Assembly

SECONDS = 5.0
"""Seconds from which the time of the forecast itself is told."""


@told
def command(
    words: Words = None,
    config: ConfigFile = None,
    out: Annotated[
        Path | None,
        typer.Option("--json", help="Write what was found to this JSON file.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the JSON file.")] = False,
) -> None:
    """Look at the data before training: cohorts, problem type, what is odd, settings, time and memory."""
    if out is not None and out.exists() and not overwrite:
        raise InputError(f"{out} exists; choose another --json, or give --overwrite")
    raw = raw_config(words or [], config)
    from remadom import diagnosing  # the libraries behind it take seconds to import

    where = "" if config is None else str(config)
    given = [] if config is None else ["--config", str(config)]
    done = diagnosing.diagnose(raw, where=where, out=out)
    show_plan(done.assembly)
    show_values(done.assembly)
    show_forecast(done.forecast, done.assembly)
    if done.forecast.took > SECONDS:
        typer.echo(f"(timing some steps and predictions took {done.forecast.took:.0f} s)")
    typer.echo(f"to train: {shlex.join(['remadom', 'train', *(words or []), *given])}")


def show_values(assembly: Assembly) -> None:
    """Print a row for each modality: its sizes, and how deep its cells were measured."""
    from rich.console import Console
    from rich.table import Table

    from remadom.data.problem import together

    columns = ("modality", "cells", "features", "in every batch", "counts a cell", "5 % to 95 %", "not zero")
    table = Table(*columns, title="values", title_justify="left")
    for name, values in assembly.diagnosis.modalities.items():
        low, middle, high = (f"{depth:,.0f}" for depth in values.depth)
        table.add_row(
            together([name]),
            f"{values.cells:,}",
            f"{values.features:,}",
            f"{values.shared:,}",
            middle,
            f"{low} to {high}",
            f"{values.density:.1%}",
        )
    Console(soft_wrap=True, highlight=False).print(table)


if __name__ == "__main__":
    typer.run(command)

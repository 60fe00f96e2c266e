"""``remadom train``: from a file or a configuration to a trained shared embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remadom.cli.telling import told
from remadom.errors import InputError

if TYPE_CHECKING:
    from remadom.config.build import Assembly
    from remadom.results.forecast import Forecast
    from remadom.results.record import Run

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE] [KEY=VALUE]...",
        help="Data to train on (.h5ad, .h5mu, .zarr), and settings such as optim.epochs=50.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "--cfg", help="Configuration: YAML or JSON.", show_default=False),
]

COHORTS = 20
"""Cohorts of the first page."""


@told
def command(
    words: Words = None,
    config: ConfigFile = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Folder or checkpoint of an unfinished run to continue.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a finished run.")] = False,
) -> None:
    """Train a model: with a data file alone, everything that is not given is chosen from the data."""
    raw = raw_config(words or [], config, resume)
    from remadom import run  # the libraries behind it take seconds to import

    where = "" if config is None else str(config)
    show_results(run.train(raw, where=where, resume=resume, overwrite=overwrite, announce=show_first_page))


def raw_config(words: list[str], config: Path | None, resume: Path | None = None) -> dict[str, Any]:
    """Raw configuration from the words of a command line, validated as far as is quick."""
    from remadom.config.load import gather, overlay, validate

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise InputError(
            f"expected one data file and settings such as optim.epochs=50, found {' '.join(files)}"
        )
    if config is None and not files and resume is None:
        raise InputError("nothing to train on: give a data file, --config or --resume")
    raw = gather(config)
    if resume is not None and config is None:
        from remadom.run import resumed_config

        raw = resumed_config(resume)
    if files:
        raw = overlay(raw, {"data": {"path": files[0]}})
    raw = overlay(raw, gather(None, [word for word in words if "=" in word]))
    settings = validate(raw, "" if config is None else str(config))
    if "run_dir" not in (raw.get("logging") or {}) and settings.data.path is not None:
        from remadom.utils.outputs import RunDir

        chosen = RunDir.unused(Path("runs") / Path(settings.data.path).name.split(".")[0])
        raw = overlay(raw, {"logging": {"run_dir": str(chosen.path)}})
    return raw


def show_first_page(assembly: Assembly) -> None:
    """Print what the data is, the settings that follow from it, and what the run will take."""
    from remadom.results.forecast import forecast

    show_plan(assembly)
    show_forecast(forecast(assembly), assembly)


def show_forecast(taken: Forecast, assembly: Assembly) -> None:
    """Print how long a run will take from here, and how much memory."""
    stops = " or less, as it stops early" if assembly.config.optim.early_stopping.enabled else ""
    typer.echo(
        f"time: about {duration(taken.seconds)} (training {duration(taken.training)}{stops}, measuring "
        f"{duration(taken.measuring)}, figures {duration(taken.drawing)}) on this machine, as busy as it is now"
    )
    free = "" if taken.free_mb is None else f", {taken.free_mb:,.0f} MB are free"
    typer.echo(
        f"memory: about {taken.peak_mb:,.0f} MB at most, {taken.matrices_mb:,.0f} MB the matrices{free}"
    )
    if taken.free_mb is not None and taken.peak_mb > taken.free_mb:
        typer.echo(
            "check: this may not fit: data.backed=true leaves the matrices in the file, data.preprocess.rna.hvg and "
            "data.preprocess.atac.n_top take fewer features, evaluation.max_cells measures on fewer cells"
        )


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_plan(assembly: Assembly) -> None:
    """Print what the data is, what to know about it, and the settings that follow from it."""
    from rich.console import Console
    from rich.table import Column, Table

    from remadom.data.problem import together

    out = Console(soft_wrap=True, highlight=False)
    source, config, found = assembly.source, assembly.config, assembly.diagnosis
    cells = Table(
        "dataset",
        "batch",
        "modalities",
        "cells",
        "labeled",
        title=config.data.path or "data",
        title_justify="left",
    )
    for c in found.cohorts[:COHORTS]:
        cells.add_row(c.dataset, c.batch, together(c.modalities), f"{c.cells:,}", f"{c.labeled:,}")
    out.print(cells)
    if len(found.cohorts) > COHORTS:
        out.print(f"and {len(found.cohorts) - COHORTS:,} more cohorts", markup=False)
    out.print(f"problem: {found.problem.kind}: {found.problem.why}", markup=False)
    for kind, why in found.problem.others.items():
        out.print(f"also {kind}: {why}", markup=False)
    if found.links.thinnest is not None:
        out.print(f"links: {found.links.words}", markup=False)
    for words in found.links.lost:
        out.print(f"cannot be recovered: {words}", markup=False)
    for words in found.checks:
        out.print(f"check: {words}", markup=False)
    sizes = ", ".join(f"{m} {len(source.features[m]):,}" for m in source.modalities)
    parts = ", ".join(f"{name} {len(getattr(assembly.split, name)):,}" for name in ("train", "val", "test"))
    out.print(f"features: {sizes}; cells: {parts}", markup=False)
    for note in assembly.notes:
        out.print(f"note: {note}", markup=False)
    if assembly.choices:
        setting = Column("setting", no_wrap=True)  # a key that is cut is none
        plan = Table(setting, "value", "why", title="chosen for this data", title_justify="left")
        for choice in assembly.choices:
            plan.add_row(choice.key, json.dumps(choice.value), choice.reason)
        out.print(plan)


def show_results(run: Run) -> None:
    """Print how training ended, what was measured, and where the outputs are."""
    from rich.console import Console
    from rich.table import Table

    from remadom.eval.report import headline
    from remadom.utils.outputs import BEST, EMBEDDINGS, REPORT

    out = Console(soft_wrap=True, highlight=False)
    table = Table("value", "train", "val", title="at the best epoch", title_justify="left")
    for name, value in run.metrics["train"].items():
        other = run.metrics["val"].get(name)
        table.add_row(name, f"{value:.4f}", "" if other is None else f"{other:.4f}")
    out.print(table)
    for line in headline(run.metrics):
        out.print(line, markup=False)
    for what, name in (
        ("embedding", EMBEDDINGS),
        ("model", BEST),
        ("figures", "figures"),
        ("report", REPORT),
    ):
        if (run.dir / name).exists():
            out.print(f"{what}: {run.dir / name}", markup=False)


if __name__ == "__main__":
    typer.run(command)

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
    from remadom.run import Run

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
    show_results(run.train(raw, where=where, resume=resume, overwrite=overwrite, announce=show_plan))


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


def show_plan(assembly: Assembly) -> None:
    """Print what was found in the data and the settings that follow from it."""
    from rich.console import Console
    from rich.table import Table

    from remadom.config.plan import pattern_table

    out = Console(soft_wrap=True, highlight=False)
    source, config = assembly.source, assembly.config
    cells = Table("modalities", "missing", "cells", title=config.data.path or "data", title_justify="left")
    for has, lacks, count in pattern_table(source):
        cells.add_row(has, lacks, f"{count:,}")
    out.print(cells)
    sizes = ", ".join(f"{m} {len(source.features[m]):,}" for m in source.modalities)
    groups = ", ".join(f"{name} {len(names)}" for name, (_, names) in assembly.groups.items())
    out.print(f"features: {sizes}; groups: {groups}", markup=False)
    parts = ", ".join(f"{name} {len(getattr(assembly.split, name)):,}" for name in ("train", "val", "test"))
    out.print(f"cells: {parts}", markup=False)
    for note in assembly.notes:
        out.print(f"note: {note}", markup=False)
    if assembly.choices:
        plan = Table("setting", "value", "why", title="chosen for this data", title_justify="left")
        for choice in assembly.choices:
            plan.add_row(choice.key, json.dumps(choice.value), choice.reason)
        out.print(plan)


def show_results(run: Run) -> None:
    """Print how training ended, what was measured, and where the outputs are."""
    from rich.console import Console
    from rich.table import Table

    from remadom.results import headline
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

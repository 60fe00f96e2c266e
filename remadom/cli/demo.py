"""``remadom demo``: a mosaic mock data set, a model trained on it, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    folder: Annotated[Path, typer.Option("--folder", help="Where data and results go.")] = Path("runs/demo"),
) -> None:
    """Make a mosaic of RNA, ATAC and proteins with known truth, train on it, and show the result."""
    from remadom import run
    from remadom.cli.train import show_plan, show_results
    from remadom.config.load import overlay, read_config
    from remadom.data.mock import write_mock

    data, config = folder / "mosaic.h5mu", folder / "mosaic.yaml"
    write_mock(data, config, "mosaic")
    typer.echo(f"mock data: {data}\nconfiguration: {config}")
    raw = overlay(read_config(config), {"logging": {"run_dir": str(folder / "run")}})
    show_results(run.train(raw, where=str(config), overwrite=True, announce=show_plan))

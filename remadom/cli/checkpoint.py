"""``remadom checkpoint``: what is in the file of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from remadom.cli.telling import told

app = typer.Typer(help="What is in the file of a model.", no_args_is_help=True)


@app.command("info")
@told
def info(
    path: Annotated[
        Path, typer.Argument(help="A checkpoint, a run folder or a saved model.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Say what a checkpoint or a saved model holds; nothing in it is run."""
    from remadom import sharing  # the libraries behind it take seconds to import

    found = sharing.info(path)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for line in _lines(found):
        typer.echo(line)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{found['kind']}: {found['path']}",
        f"layout {found['layout']}, {found['bytes'] / 1e6:.1f} MB, {found['parameters']:,} parameters",
    ]
    if found.get("epoch") is not None:
        lines.append(f"epoch {found['epoch']}, step {found['step']:,}")
    lines.append(f"latent: {found['latent']} dimensions")
    lines += [
        f"{modality}: {of['features']:,} features, {of['likelihood'] or 'not decoded'}"
        for modality, of in found["modalities"].items()
    ]
    lines += [f"{name}: {n}" for name, n in found["groups"].items()]
    if "cells" in found:
        lines.append(f"cells: {found['cells']:,}")
        lines += [f"labels {level}: {n}" for level, n in found["labels"].items()]
    scores = found.get("metrics", {}).get("evaluation", {}).get("integration", {})
    lines += [f"{name}: {scores[name]:.3f}" for name in ("bio", "batch", "total") if name in scores]
    return lines

"""``remadom mapref``: new cells onto a trained reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings, such as adapter.method=arches or data.batch_key=donor.", show_default=False
        ),
    ] = None,
    *,
    reference: Annotated[
        Path, typer.Option(help="Folder of a saved model or of a finished run.", show_default=False)
    ],
    query: Annotated[Path, typer.Option(help="File with the new cells.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for what comes of it.", show_default=False)],
    config: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON file with the sections adapter and data.", show_default=False),
    ] = None,
    impute: Annotated[
        list[str] | None,
        typer.Option(help="Modality to impute for every new cell (repeatable).", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on where too few features of the reference are found.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier mapping.")] = False,
) -> None:
    """Map new cells onto a reference: embedding, labels with confidence, and how well they fit."""
    from remadom import mapping  # the libraries behind it take seconds to import
    from remadom.config.load import gather

    mapped = mapping.map_reference(
        reference,
        query,
        out,
        config=gather(config, changes or []),
        where="" if config is None else str(config),
        impute=impute or (),
        force=force,
        overwrite=overwrite,
    )
    for note in mapped.metrics["notes"]:
        typer.echo(note)
    quality = mapped.metrics["quality"]["words"]
    typer.echo(f"{quality[:1].upper()}{quality[1:]}.")
    for level, scores in mapped.metrics["labels"].items():
        listed = ", ".join(f"{name} {cells:,}" for name, cells in scores["cells"].items())
        typer.echo(f"{level}: {listed}")
        if "accuracy" in scores:
            typer.echo(f"{level}: {scores['accuracy']:.1%} of {scores['labeled']:,} known labels are right")
    typer.echo(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    typer.run(command)

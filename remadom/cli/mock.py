"""``remadom mock``: mock data of any problem type, with a configuration that trains on it."""

from __future__ import annotations

from typing import Annotated

import typer

from remadom.cli.telling import told


@told
def command(
    problem: Annotated[
        str, typer.Option(help="paired, unpaired, bridge, mosaic, prediction or hierarchical")
    ],
    out: Annotated[str, typer.Option(help="data file to write: .h5ad or .h5mu")],
    config_out: Annotated[
        str | None, typer.Option(help="configuration (YAML) to write", show_default=False)
    ] = None,
    links_out: Annotated[
        str | None, typer.Option(help="table of genes and their proteins (CSV) to write", show_default=False)
    ] = None,
    cells: Annotated[int, typer.Option(help="number of cells")] = 1200,
    genes: Annotated[int, typer.Option(help="number of genes")] = 400,
    peaks: Annotated[int, typer.Option(help="number of peaks")] = 600,
    proteins: Annotated[int, typer.Option(help="number of proteins")] = 30,
    modalities: Annotated[
        str | None,
        typer.Option(help="some of rna,atac,adt (default: what the problem needs)", show_default=False),
    ] = None,
    batches: Annotated[
        int | None,
        typer.Option(
            help="number of batches; hierarchical: per study (default: by problem)", show_default=False
        ),
    ] = None,
    missing_rate: Annotated[
        float | None,
        typer.Option(help="mosaic: share of the measurements to drop (default: 0.2)", show_default=False),
    ] = None,
    difficulty: Annotated[float, typer.Option(help="0 easy, 1 very hard")] = 0.5,
    seed: Annotated[int, typer.Option(help="seed")] = 0,
) -> None:
    """Write a mock multi-modal data set with known truth, and a configuration that trains on it."""
    from remadom.data.mock import write_mock

    mock = write_mock(
        out,
        config_out,
        problem,
        links_out=links_out,
        cells=cells,
        genes=genes,
        peaks=peaks,
        proteins=proteins,
        modalities=None if modalities is None else modalities.split(","),
        batches=batches,
        missing_rate=missing_rate,
        difficulty=difficulty,
        seed=seed,
    )
    typer.echo(f"wrote {out}: {len(mock.obs):,} cells, {', '.join(mock.modalities)}")
    for written in (config_out, links_out):
        if written is not None:
            typer.echo(f"wrote {written}")


if __name__ == "__main__":
    typer.run(command)

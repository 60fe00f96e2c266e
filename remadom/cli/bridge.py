"""``remadom bridge``: edges between the cells of two modalities, or of batches, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remadom.cli.telling import told
from remadom.errors import InputError

if TYPE_CHECKING:
    from remadom.linking import Linked

SUFFIXES = (".h5ad", ".h5mu", ".zarr")


@told
def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE [KEY=VALUE]...",
            help="Cells (.h5ad, .h5mu, .zarr), and parameters of the provider such as neighbors=15, or seeds, "
            "normalize and max_edges.",
            show_default=False,
        ),
    ],
    provider: Annotated[str, typer.Option(help="What finds the edges.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to write to.", show_default=False)],
    modalities: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="What to link, under the names it has in the file.", show_default=False
        ),
    ] = None,
    read_as: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KIND",
            help="Read a modality as lognorm, tfidf, clr, features or scores.",
            show_default=False,
        ),
    ] = None,
    label_key: Annotated[str, typer.Option(help="Column of obs with the cell types.")] = "cell_type",
    batch_key: Annotated[str, typer.Option(help="Column of obs with the batches.")] = "batch",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier edges.")] = False,
) -> None:
    """Find, measure and draw correspondences between cells."""
    file, names, params = sorted_words(words, modalities)
    from remadom import linking  # the libraries behind it take seconds to import

    linked = linking.bridge(
        file,
        provider,
        out,
        modalities=names,
        params=params,
        kinds=dict(_pair(text) for text in read_as or []),
        label_key=label_key,
        batch_key=batch_key,
        overwrite=overwrite,
    )
    show(linked)


def sorted_words(words: list[str], modalities: str | None) -> tuple[str, list[str] | None, dict[str, Any]]:
    """File, modalities and settings of a command line; further modalities may follow the first as words."""
    from remadom.config.load import gather

    plain = [word for word in words if "=" not in word]
    files = [word for word in plain if Path(word).suffix in SUFFIXES]
    others = [word for word in plain if word not in files]
    if len(files) != 1 or (others and modalities is None):
        raise InputError(
            f"expected one data file ({', '.join(SUFFIXES)}) and parameters such as neighbors=15, found "
            f"{' '.join(plain) or 'no file'}"
        )
    names = None
    if modalities is not None:
        names = [name for word in (modalities, *others) for name in word.split(",") if name]
    return files[0], names, gather(None, [word for word in words if "=" in word])


def _pair(text: str) -> tuple[str, Any]:
    name, equals, kind = text.partition("=")
    if not equals:
        raise InputError(f"--read-as {text}: expected NAME=KIND, such as topics=scores")
    return name, kind


def show(linked: Linked) -> None:
    """Print what was found and where it is."""
    from remadom.linking import EDGES, FIGURE
    from remadom.utils.outputs import BRIDGE

    m = linked.metrics
    shares = ", ".join(f"{name} {share:.0%}" for name, share in m["coverage_by_modality"].items())
    typer.echo(f"{m['n_edges']:,} edges in {m['seconds']:.1f} s; cells with an edge: {shares}")
    typer.echo(f"edges of such a cell: median {m['degree_median']:.0f}, most {m['degree_max']}")
    if "label_agreement" in m:
        typer.echo(
            f"edges between equal labels: {m['label_agreement']:.1%} (by chance {m['label_agreement_chance']:.1%})"
        )
    for what, name in (("edges", EDGES), ("measures", BRIDGE), ("figure", FIGURE)):
        typer.echo(f"{what}: {linked.dir / name}")


if __name__ == "__main__":
    typer.run(command)

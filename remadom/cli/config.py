"""``remadom config``: the JSON schema of the configuration, and a configuration resolved."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from remadom.cli.telling import told
from remadom.cli.train import ConfigFile, Words, raw_config

app = typer.Typer(help="Look at configurations.", no_args_is_help=True)


@app.command("schema")
@told
def schema() -> None:
    """Print the JSON schema of a configuration: editors complete and check YAML files with it."""
    from remadom.config.components import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command("show")
@told
def show(
    words: Words = None,
    config: ConfigFile = None,
    data: Annotated[
        bool, typer.Option("--data/--no-data", help="Read the data and resolve what depends on it.")
    ] = True,
) -> None:
    """Print the configuration that a run would have, every default and choice filled in."""
    from remadom.config.load import to_yaml, validate

    raw = raw_config(words or [], config)
    where = "" if config is None else str(config)
    if not data:
        from remadom.config.components import check_components

        settings = validate(raw, where)
        check_components(settings, where)
        typer.echo(to_yaml(settings), nl=False)
        return
    from remadom.config.build import assemble

    typer.echo(to_yaml(assemble(raw, where=where).config), nl=False)

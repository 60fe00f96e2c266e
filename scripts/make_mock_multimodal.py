"""Write a mock multi-modal data set and a configuration that trains on it (the same as ``remadom mock``)."""

from __future__ import annotations

import typer

from remadom.cli.mock import command

if __name__ == "__main__":
    typer.run(command)

"""The report of a run: one HTML file that holds everything it shows and asks for nothing from anywhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from remadom.errors import InputError
from remadom.utils.files import write_text

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers; the first column names the row. A number is shown with four digits."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Figure:
    """A PNG file, and what is to be seen in it (also read aloud in its place)."""

    title: str
    path: str | Path
    caption: str


@dataclass(frozen=True)
class Report:
    """What a report says, in the order in which it says it.

    Attributes
    ----------
    title
        Name of the run.
    verdict_lines
        What came out, in sentences.
    tables, figures
        The evidence.
    config_text
        The resolved configuration, as it was written.
    notes
        Warnings, and what the reader should know.
    versions
        Version by package.
    """

    title: str
    verdict_lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    config_text: str = ""
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def render_report(report: Report, path: str | Path) -> None:
    """Write a report as one HTML file, atomically; all text in it is shown as text, whatever it contains.

    Raises
    ------
    InputError
        A figure is not there or is not a PNG, or a row of a table has not as many cells as the table columns.
    """
    for table in report.tables:
        uneven = [row for row in table.rows if len(row) != len(table.columns)]
        if uneven:
            raise InputError(
                f"report: table '{table.title}' has {len(table.columns)} columns, and a row of {len(uneven[0])}"
            )
    environment = Environment(
        loader=PackageLoader(__name__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "numeric": _numeric, "embedded": _embedded}
    text = environment.get_template("template.html.jinja").render(report=report)
    write_text(path, text.encode(errors="replace").decode())


def shown(value: Any) -> str:
    """A value as a reader wants it: thousands apart, four digits of a fraction, a dash for nothing."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        number = float(value)
        return "—" if math.isnan(number) else f"{number:,.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    return "—" if value is None else str(value)


def _numeric(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def _embedded(path: str | Path) -> str:
    """A PNG file as a data address."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"report: the figure {path} does not exist; draw it before the report") from None
    if not content.startswith(_PNG):
        raise InputError(f"report: {path} is not a PNG file; draw the figure as PNG")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"

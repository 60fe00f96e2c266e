"""A report as one HTML file that holds everything it shows and asks for nothing from anywhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from remadom.errors import InputError
from remadom.utils.files import write_text

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Text:
    """A paragraph; a warning stands out and says that it is one."""

    words: str
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """Lines as they were written."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers; the first column names the row. A number is shown with four digits.

    ``best`` holds the places, row and column, of the values that are the best of theirs.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    best: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A PNG file, and what is to be seen in it (also read aloud in its place)."""

    title: str
    path: str | Path
    caption: str


@dataclass(frozen=True)
class Gallery:
    """Figures side by side, under one title."""

    title: str
    figures: Sequence[Figure]


Part = Text | Code | Table | Figure | Gallery


@dataclass(frozen=True)
class Section:
    """Parts under a title, which folds them."""

    title: str
    parts: Sequence[Part]
    folded: bool = False


@dataclass(frozen=True)
class Verdict:
    """Whether the cohorts of a run are aligned, in a word (``aligned``, ``partly``, ``not``, ``unknown``)."""

    word: str
    sentences: Sequence[str]
    name: str = ""

    @property
    def known(self) -> str:
        """The word, or ``unknown`` where it is none of the four."""
        return self.word if self.word in _VERDICTS else "unknown"

    @property
    def sign(self) -> str:
        """A sign that tells the verdicts apart without color."""
        return _VERDICTS[self.known][0]

    @property
    def title(self) -> str:
        """The verdict as a heading."""
        return _VERDICTS[self.known][1]


_VERDICTS = {
    "aligned": ("✓", "The cohorts are aligned"),
    "partly": ("◐", "The cohorts are aligned in part"),
    "not": ("✗", "The cohorts are not aligned"),
    "unknown": ("?", "Whether the cohorts are aligned is unknown"),
}


@dataclass(frozen=True)
class Report:
    """What a report says, in the order in which it says it.

    Attributes
    ----------
    title
        Name of the run.
    verdicts
        First of all: one, or one for each of several runs.
    lines
        What came out, in sentences.
    sections
        The evidence. A section without parts is left out, and so is a table without rows.
    """

    title: str
    verdicts: Sequence[Verdict] = ()
    lines: Sequence[str] = ()
    sections: Sequence[Section] = ()


def render_report(report: Report, path: str | Path) -> None:
    """Write a report as one HTML file, atomically; all text in it is shown as text, whatever it contains.

    Raises
    ------
    InputError
        A figure is not there or is not a PNG, or a row of a table has not as many cells as the table columns.
    """
    sections = [
        Section(section.title, [part for part in section.parts if _holds(part)], section.folded)
        for section in report.sections
    ]
    environment = Environment(
        loader=PackageLoader(__name__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "numeric": _numeric, "embedded": _embedded, "kind": _kind}
    template = environment.get_template("template.html.jinja")
    text = template.render(report=report, sections=[section for section in sections if section.parts])
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


def _holds(part: Part) -> bool:
    """Whether there is something in a part; a table must be even."""
    if isinstance(part, Gallery):
        return bool(part.figures)
    if not isinstance(part, Table):
        return True
    uneven = [row for row in part.rows if len(row) != len(part.columns)]
    if uneven:
        raise InputError(
            f"report: table '{part.title}' has {len(part.columns)} columns, and a row of {len(uneven[0])}"
        )
    return bool(part.rows)


def _kind(part: Part) -> str:
    return type(part).__name__


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

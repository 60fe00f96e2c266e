"""Nested plain values (what a JSON file holds) as tables, whatever they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remadom.eval.report.page import Table, shown

MOST_ROWS = 200
"""Rows of a table that are shown."""


def tables(title: str, value: Any) -> list[Table]:
    """Tables of a nested value: one of its single values, and one or more of each value that has parts.

    Parameters
    ----------
    title
        Of the first table; those of parts are named after their key.
    value
        Mappings, lists and single values, nested in any way. Mappings of mappings of single values, and lists of
        mappings, become one table with a row each.
    """
    if isinstance(value, Mapping):
        return _of_mapping(title, value)
    if _is_list(value):
        return [_of_list(title, value)] if value else []
    return [] if value is None else [Table(title, ["value"], [[value]])]


def words(value: Any) -> Any:
    """A value as one cell of a table: what has parts becomes text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {shown(words(part))}" for key, part in value.items())
    if _is_list(value):
        return ", ".join(str(shown(words(part))) for part in value)
    return value


def cut(rows: list[list[Any]], width: int) -> list[list[Any]]:
    """At most ``MOST_ROWS`` rows, and how many more there are."""
    rest = len(rows) - MOST_ROWS
    return rows if rest <= 0 else [*rows[:MOST_ROWS], [f"and {rest:,} more", *[""] * (width - 1)]]


def _of_mapping(title: str, value: Mapping[str, Any]) -> list[Table]:
    if len(value) > 1 and all(isinstance(part, Mapping) and _is_flat(part) for part in value.values()):
        return [_table(title, list(value), list(value.values()))]
    single = {key: part for key, part in value.items() if not _has_parts(part)}
    found = [Table(title, ["", "value"], cut([[key, words(part)] for key, part in single.items()], 2))]
    for key, part in value.items():
        if key not in single:
            found += tables(f"{title}: {key}", part)
    return [table for table in found if table.rows]


def _of_list(title: str, value: Sequence[Any]) -> Table:
    if all(isinstance(part, Mapping) for part in value):
        return _table(title, [], value)
    return Table(title, ["value"], cut([[words(part)] for part in value], 1))


def _table(title: str, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[words(row.get(column)) for column in columns] for row in rows]
    if names:
        cells = [[name, *row] for name, row in zip(names, cells, strict=True)]
        columns = ["", *columns]
    return Table(title, columns, cut(cells, len(columns)))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_flat(value: Mapping[str, Any]) -> bool:
    return not any(_has_parts(part) for part in value.values())


def _has_parts(value: Any) -> bool:
    """Whether a value needs a table of its own."""
    if isinstance(value, Mapping):
        return bool(value)
    return _is_list(value) and any(isinstance(part, Mapping) for part in value)

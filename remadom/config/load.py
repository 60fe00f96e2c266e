"""From a YAML or JSON file and dotted overrides to a validated :class:`RunConfig`; imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from remadom.config.schema import RunConfig
from remadom.errors import InputError
from remadom.registry import error_lines

Raw = dict[str, Any]


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {sorted(map(str, twice))[0]!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_config(path: str | Path) -> Raw:
    """Contents of a configuration file.

    Raises
    ------
    InputError
        A file that is missing, is not YAML or JSON, or is no mapping of sections.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a configuration: {error}") from None
    try:
        raw = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_UniqueKeys)  # noqa: S506
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not valid YAML or JSON: {' '.join(str(error).split())}") from None
    raw = merge_bullets({} if raw is None else raw)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected sections such as data and model, found {type(raw).__name__}")
    return raw


def merge_bullets(value: Any) -> Any:
    """Turn lists of one-key mappings into a mapping: the guide writes its sections as bullet lists."""
    if isinstance(value, dict):
        return {key: merge_bullets(inner) for key, inner in value.items()}
    if isinstance(value, list) and value and all(isinstance(v, dict) and len(v) == 1 for v in value):
        merged: Raw = {}
        for bullet in value:
            ((key, inner),) = bullet.items()
            if key in merged:
                raise InputError(f"the key {key!r} is given twice in one list of bullets")
            merged[key] = merge_bullets(inner)
        return merged
    return value


def parse_override(text: str) -> Raw:
    """``optim.epochs=50`` as nested sections; the value is read as YAML.

    Raises
    ------
    InputError
        No ``=``, an empty key, or a value that is not YAML.
    """
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"override {text!r}: expected key=value with a dotted key, such as optim.epochs=50")
    try:
        nested: Any = yaml.load(value, Loader=_UniqueKeys)  # noqa: S506
    except yaml.YAMLError as error:
        raise InputError(
            f"override {text!r}: the value is not YAML: {' '.join(str(error).split())}"
        ) from None
    for key in reversed(keys):
        nested = {key: nested}
    return nested if isinstance(nested, dict) else {}


def overlay(under: Mapping[str, Any], over: Mapping[str, Any]) -> Raw:
    """Nested mappings joined; where both have a value, ``over`` wins."""
    joined = dict(under)
    for key, value in over.items():
        below = joined.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        joined[key] = overlay(below, value) if both else value  # type: ignore[arg-type]
    return joined


def gather(path: str | Path | None = None, overrides: Iterable[str] = ()) -> Raw:
    """A file (or nothing) with overrides on top, not yet validated."""
    raw = {} if path is None else read_config(path)
    for text in overrides:
        raw = overlay(raw, parse_override(text))
    return raw


def validate(raw: Mapping[str, Any], where: str = "") -> RunConfig:
    """A validated configuration.

    Raises
    ------
    InputError
        One line per problem, with the dotted key, the nearest valid key and the file (``where``).
    """
    try:
        return RunConfig.model_validate(dict(raw))
    except ValidationError as error:
        file = f"{where}: " if where else ""
        raise InputError("\n".join(file + line for line in error_lines(error))) from None


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML text that :func:`read_config` reads back to the same values."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)

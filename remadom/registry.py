"""From one class definition: a validated configuration section, a constructor and a reference entry.

Positional parameters of a component's ``__init__`` are wiring (sizes, modules) and keyword-only parameters
are configuration. A registry reads the keyword-only ones, with their types, defaults and documentation.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import PydanticCustomError

from remadom.errors import InputError, nearest

T = TypeVar("T")

TOLD = "told"
"""Type of the problems whose message says all, also what was found."""


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors that name the nearest valid one."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict) or cls.model_config["extra"] == "allow":
            return values
        unknown = [key for key in values if key not in cls.model_fields]
        if unknown:
            refuse(*(f"unknown key '{key}': {nearest(str(key), cls.model_fields)}" for key in unknown))
        return values


def refuse(*problems: str) -> NoReturn:
    """Raise what pydantic takes for a problem with a section that is told in words, in a validator of it."""
    # braces would be read as a template by pydantic
    raise PydanticCustomError(TOLD, "; ".join(problems).replace("{", "(").replace("}", ")"))


def error_lines(error: ValidationError, prefix: str = "") -> list[str]:
    """One line per problem: the dotted key, what was found and what was expected."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join([*([prefix] if prefix else []), *map(str, problem["loc"])])
        found = "" if problem["type"] == TOLD else f" (found {problem['input']!r})"
        lines.append(f"{key}: {problem['msg']}{found}" if key else f"{problem['msg']}{found}")
    return lines


def parameter_docs(docstring: str | None) -> dict[str, str]:
    """Text of each entry in the ``Parameters`` part of a numpydoc docstring."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    docs: dict[str, list[str]] = {}
    names: list[str] = []
    inside = False
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if re.fullmatch(r"-{3,}", below):
            inside = line.strip() == "Parameters"
        elif inside and not re.fullmatch(r"-{3,}", line):
            if line and not line.startswith(" "):
                names = [name.strip() for name in line.partition(":")[0].split(",")]
                docs.update({name: [] for name in names})
            else:
                for name in names:
                    docs[name].append(line.strip())
    return {name: " ".join(filter(None, text)) for name, text in docs.items()}


def documented_parameters(component: type) -> dict[str, str]:
    """Documentation of a component's parameters, its own and those of the classes that it extends."""
    docs: dict[str, str] = {}
    for part in reversed(component.__mro__):
        docs |= parameter_docs(part.__doc__)
    return docs


def keyword_parameters(component: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Keyword-only parameters of a class or function, with evaluated annotations.

    An ``__init__`` that takes ``**common`` hands these on: the parameters of the class that it extends come first.
    """
    found: dict[str, inspect.Parameter] = {}
    for target in _initializers(component):
        parameters = inspect.signature(target, eval_str=True).parameters
        own = {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        found = {**own, **found}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            break
    return found


def _initializers(component: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """What is called to make one: the function, or every ``__init__`` of a class from the most derived up."""
    if not inspect.isclass(component):
        yield component
        return
    yield from (vars(part)["__init__"] for part in component.__mro__ if "__init__" in vars(part))


class Registry(Generic[T]):
    """Components of one kind by name.

    Parameters
    ----------
    kind
        What a component of this registry is called in error messages, for example ``"decoder"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._components: dict[str, type[T]] = {}
        self.schema = cache(self._schema)

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make a component known by ``name``; a name can be taken only once."""

        def add(component: type[T]) -> type[T]:
            if name in self._components:
                raise InputError(
                    f"{self.kind} '{name}' is already registered by {self._components[name].__qualname__}; "
                    "choose another name"
                )
            self._components[name] = component
            return component

        return add

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._components:
            raise InputError(f"unknown {self.kind} '{name}': {nearest(name, self._components)}")
        return self._components[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._components)

    def __contains__(self, name: object) -> bool:
        return name in self._components

    def __len__(self) -> int:
        return len(self._components)

    def _schema(self, name: str) -> type[Section]:
        component = self[name]
        docs = documented_parameters(component)
        fields: dict[str, Any] = {}
        for key, parameter in keyword_parameters(component).items():
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[key] = (parameter.annotation, Field(default, description=docs.get(key)))
        return create_model(f"{component.__name__}Section", __base__=Section, **fields)

    def section(self, name: str, params: dict[str, Any] | None = None, where: str = "") -> Section:
        """Validate a component's configuration; every default is filled in.

        Raises
        ------
        InputError
            Unknown component, unknown key, wrong type or impossible value; the message starts with ``where``.
        """
        try:
            return self.schema(name).model_validate(params or {})
        except ValidationError as error:
            raise InputError("\n".join(error_lines(error, where or f"{self.kind} '{name}'"))) from None

    def build(self, name: str, *wiring: Any, **params: Any) -> T:
        """Construct a component from its wiring and its validated configuration."""
        section = self.section(name, params)
        return self[name](*wiring, **{key: getattr(section, key) for key in type(section).model_fields})

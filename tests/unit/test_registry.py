from __future__ import annotations

import pytest
from pydantic import PositiveInt

from remadom.errors import InputError
from remadom.registry import Registry, parameter_docs


def example() -> Registry:
    registry: Registry = Registry("shape")

    @registry.register("box")
    class Box:
        """A box.

        Parameters
        ----------
        volume
            Wiring.
        width : int
            How wide,
            in cells.
        color, edge
            Paint.

        Returns
        -------
        width
            Not a parameter.
        """

        def __init__(self, volume, *, width: PositiveInt = 2, color: str = "red", edge: str | None = None):
            self.got = (volume, width, color, edge)

    return registry


def test_schema_is_the_keyword_only_signature_with_its_documentation():
    schema = example().schema("box")
    assert {name: field.default for name, field in schema.model_fields.items()} == {
        "width": 2,
        "color": "red",
        "edge": None,
    }
    assert schema.model_fields["width"].description == "How wide, in cells."
    assert parameter_docs(example()["box"].__doc__)["edge"] == "Paint."


def test_build_validates_and_passes_wiring_on():
    assert example().build("box", 7, width="3").got == (7, 3, "red", None)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"widht": 3}, "unknown key 'widht': did you mean 'width'"),
        ({"width": 0}, "width: Input should be greater than 0 \\(found 0\\)"),
        ({"width": "wide"}, "width: Input should be a valid integer.*found 'wide'"),
        ({"{0}": 1}, r"unknown key '\(0\)'"),
    ],
)
def test_bad_parameters_name_the_key(params, message):
    with pytest.raises(InputError, match=message):
        example().build("box", 7, **params)


def test_names_are_taken_once_and_unknown_names_list_the_choices():
    registry = example()
    with pytest.raises(InputError, match="already registered"):
        registry.register("box")(object)
    with pytest.raises(InputError, match="unknown shape 'bax': did you mean 'box'"):
        registry.build("bax")

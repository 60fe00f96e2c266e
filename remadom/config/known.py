"""Whether everything that a saved configuration names is registered here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from remadom.align import HEADS
from remadom.bridges import BRIDGES
from remadom.config.components import named_input
from remadom.core.decoders import DECODERS
from remadom.core.inputs import INPUTS
from remadom.data.modality import MODALITIES
from remadom.errors import InputError
from remadom.eval.metric import METRICS


def check_known(config: Mapping[str, Any], where: str, *, training: bool = False) -> None:
    """See that the components of a saved configuration are registered; nothing is imported to make it so.

    Parameters
    ----------
    config
        Resolved configuration of a checkpoint, not validated.
    where
        The checkpoint, for the message.
    training
        Whether heads, bridge and metrics are wanted too, which no use of the model needs.

    Raises
    ------
    InputError
        The message names every component that is not registered.
    """
    asked = [*_of_model(config), *(_of_training(config) if training else ())]
    unknown = dict.fromkeys(f"{kind} '{name}'" for kind, name, known in asked if name not in known)
    if unknown:
        raise InputError(
            f"{where} needs {', '.join(unknown)}, which remadom does not have by itself; import the module that "
            "registers what is missing: remadom --import MODULE, or before in Python"
        )


Asked = Iterator[tuple[str, Any, Any]]
"""Kinds, names and their registries. What is no mapping where one should be is left to the validation."""


def _of_model(config: Mapping[str, Any]) -> Asked:
    for part in ("encoders", "decoders"):
        for modality, section in _in(config, "model", part).items():
            yield "modality", modality, MODALITIES
            likelihood, chosen = (_in(section).get(key) for key in ("likelihood", "input"))
            if likelihood is not None:
                yield "likelihood", likelihood, DECODERS
            if chosen is not None:
                yield "encoder input", named_input(chosen)[0], INPUTS


def _of_training(config: Mapping[str, Any]) -> Asked:
    for name, head in _in(config, "alignment").items():
        yield "alignment head", _in(head).get("kind") or name, HEADS
    provider = _in(config, "bridge").get("provider")
    if provider is not None:
        yield "bridge provider", provider, BRIDGES
    for name in _in(config, "evaluation", "metrics"):
        yield "metric", name, METRICS


def _in(value: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}

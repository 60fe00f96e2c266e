"""Sections of the components: what the registries add to the schema (imports torch)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

from pydantic import PositiveInt, ValidationError, create_model

from remadom.align import HEADS, AlignmentHead
from remadom.bridges import BRIDGES, Bridge
from remadom.config.schema import BridgeSettings, EvaluationSettings, HeadSettings, ModelSettings, RunConfig
from remadom.core.decoders import DECODERS, Decoder
from remadom.core.encoder import ENCODERS, GaussianEncoder
from remadom.core.inputs import INPUTS
from remadom.data.modality import MODALITIES, modality_named
from remadom.data.settings import FeatureSelection
from remadom.errors import InputError, nearest
from remadom.eval.metric import METRICS, Metric
from remadom.registry import Registry, Section, error_lines
from remadom.schedule import Schedule, schedule_of

T = TypeVar("T")


class EncoderSizes(Section):
    """Keys that every encoder has."""

    in_dim: PositiveInt | None = None
    """Number of features (or LSI components); inferred from the data where null."""

    input: str | dict[str, Any] | None = None
    """What the encoder makes of the counts: a name, or a mapping of ``name`` and its parameters; null is the
    modality's own (LSI components are read as they are)."""


class DecoderSizes(Section):
    """Keys that every decoder has."""

    out_dim: PositiveInt | None = None
    """Number of features; inferred from the data where null."""

    conditional_batches: PositiveInt | None = None
    """Number of batches that the decoder is conditioned on; inferred from obs where null, 1 conditions on none."""

    likelihood: str | None = None
    """Which decoder; null is the modality's own."""


@cache
def encoder_schema() -> type[Section]:
    """Section of an encoder."""
    return create_model("EncoderSection", __base__=(EncoderSizes, ENCODERS.schema("gaussian")))


@cache
def decoder_schema(likelihood: str) -> type[Section]:
    """Section of a decoder of a given likelihood."""
    return create_model(f"{likelihood}_section", __base__=(DecoderSizes, DECODERS.schema(likelihood)))


def _validated(schema: type[Section], values: dict[str, Any], key: str) -> dict[str, Any]:
    try:
        return schema.model_validate(values).model_dump()
    except ValidationError as error:
        raise InputError("\n".join(error_lines(error, key))) from None


def encoder_section(modality: str, values: dict[str, Any]) -> dict[str, Any]:
    """A validated encoder section with every default filled in; raises :class:`InputError`."""
    section = _validated(encoder_schema(), values, f"model.encoders.{modality}")
    if section["input"] is not None:
        where = f"model.encoders.{modality}.input"
        name, params = named_input(section["input"])
        if name not in INPUTS:
            raise InputError(f"{where}: unknown '{name}': {nearest(name, INPUTS)}")
        INPUTS.section(name, params, where)
    return section


def named_input(value: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of an encoder input."""
    if isinstance(value, str):
        return value, {}
    return str(value.get("name")), {key: param for key, param in value.items() if key != "name"}


def decoder_section(modality: str, values: dict[str, Any]) -> dict[str, Any]:
    """A validated decoder section with every default filled in; raises :class:`InputError`."""
    key = f"model.decoders.{modality}"
    likelihood = values.get("likelihood") or modality_named(modality).likelihood
    if likelihood not in DECODERS:
        raise InputError(f"{key}.likelihood: unknown '{likelihood}': {nearest(str(likelihood), DECODERS)}")
    return _validated(decoder_schema(likelihood), {**values, "likelihood": likelihood}, key)


def head_kind(name: str, settings: HeadSettings) -> str:
    """Which head a section of ``alignment`` configures; raises :class:`InputError`."""
    kind = settings.kind or name
    if kind not in HEADS:
        of_kind = "" if settings.kind is None else ".kind"
        also = "" if settings.kind else "; a section of another name needs kind"
        raise InputError(f"alignment.{name}{of_kind}: unknown head '{kind}': {nearest(kind, HEADS)}{also}")
    return kind


def build_head(name: str, settings: HeadSettings) -> AlignmentHead:
    """Head of a section of ``alignment``, not yet connected to data; raises :class:`InputError`."""
    kind, where = head_kind(name, settings), f"alignment.{name}.params"
    section = HEADS.section(kind, settings.params, where)
    return _built(HEADS, kind, section, where)


def build_bridge(settings: BridgeSettings) -> Bridge | None:
    """The configured bridge, if any; raises :class:`InputError`, for a block that is not used too."""
    for name, block in settings.blocks.items():
        if name not in BRIDGES:
            known = {*BRIDGES, *BridgeSettings.model_fields}
            raise InputError(f"bridge: unknown key '{name}': {nearest(name, known)}")
        BRIDGES.section(name, block, f"bridge.{name}")
    if settings.provider is None:
        return None
    if settings.provider not in BRIDGES:
        raise InputError(
            f"bridge.provider: unknown '{settings.provider}': {nearest(settings.provider, BRIDGES)}"
        )
    where = f"bridge.{settings.provider}"
    section = BRIDGES.section(settings.provider, settings.blocks.get(settings.provider), where)
    return _built(BRIDGES, settings.provider, section, where)


def _built(registry: Registry[T], name: str, section: Section, where: str) -> T:
    """A component of a validated section; an error of its own names the section."""
    try:
        return registry.build(name, **{key: getattr(section, key) for key in type(section).model_fields})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def build_metrics(settings: EvaluationSettings) -> dict[str, Metric]:
    """Metrics that are asked for, by name; raises :class:`InputError`."""
    metrics = {}
    for name, params in settings.metrics.items():
        if name not in METRICS:
            raise InputError(f"evaluation.metrics: unknown metric '{name}': {nearest(name, METRICS)}")
        where = f"evaluation.metrics.{name}"
        metrics[name] = _built(METRICS, name, METRICS.section(name, params, where), where)
    return metrics


def check_components(config: RunConfig, where: str = "") -> None:
    """Validate the component sections of a configuration; raises :class:`InputError` with every problem."""
    problems: list[str] = []
    checks = [
        *((encoder_section, m, values) for m, values in config.model.encoders.items()),
        *((decoder_section, m, values) for m, values in config.model.decoders.items()),
    ]
    for check, modality, values in checks:
        try:
            modality_named(modality)
            if values is not None:
                check(modality, values)
        except InputError as error:
            problems.append(str(error))
    others: list[Callable[[], object]] = [
        partial(beta_schedule, config.model),
        partial(schedule_of, config.structure.laplacian_lambda, "structure.laplacian_lambda"),
        partial(schedule_of, config.bridge.weight, "bridge.weight"),
        partial(build_bridge, config.bridge),
        partial(build_metrics, config.evaluation),
        *(partial(build_head, name, settings) for name, settings in config.alignment.items()),
    ]
    for other in others:
        try:
            other()
        except InputError as error:
            problems.append(str(error))
    if problems:
        file = f"{where}: " if where else ""
        raise InputError("\n".join(file + line for problem in problems for line in problem.splitlines()))


def build_encoder(section: dict[str, Any], latent_dim: int) -> GaussianEncoder:
    """Encoder from a complete section; a key that came after the section was saved has its default."""
    params = {key: section[key] for key in ENCODERS.schema("gaussian").model_fields if key in section}
    name, chosen = named_input(section["input"])
    transform = INPUTS.build(name, section["in_dim"], **chosen)
    return ENCODERS.build("gaussian", section["in_dim"], latent_dim, transform, **params)


def build_decoder(section: dict[str, Any], latent_dim: int, n_covariates: int = 0) -> Decoder:
    """Decoder from a complete section; a key that came after the section was saved has its default."""
    likelihood = section["likelihood"]
    params = {key: section[key] for key in DECODERS.schema(likelihood).model_fields if key in section}
    sizes = (latent_dim, section["out_dim"], section["conditional_batches"], n_covariates)
    return DECODERS.build(likelihood, *sizes, **params)


def beta_schedule(model: ModelSettings) -> Schedule:
    """Schedule of the KL weight; raises :class:`InputError`."""
    return schedule_of(model.beta, "model.beta")


def _input_schema(name: str) -> dict[str, Any]:
    schema = INPUTS.schema(name).model_json_schema()
    schema["properties"] = {"name": {"const": name}, **schema.get("properties", {})}
    return {**schema, "required": ["name", *schema.get("required", [])]}


def json_schema() -> dict[str, Any]:
    """JSON schema of the whole configuration, component sections included, for editors."""
    schema = RunConfig.model_json_schema()
    model = schema["$defs"]["ModelSettings"]["properties"]
    encoder = encoder_schema().model_json_schema()
    decoders = [decoder_schema(name).model_json_schema() for name in DECODERS]
    for part in (encoder, *decoders):
        schema["$defs"].update(part.pop("$defs", {}))
    encoder["properties"]["input"]["anyOf"] = [{"enum": [*INPUTS, None]}, *map(_input_schema, INPUTS)]
    for name, decoder in zip(DECODERS, decoders, strict=True):
        decoder["properties"]["likelihood"]["enum"] = [name, None]
    nothing = {"type": "null"}
    model["encoders"]["additionalProperties"] = {"anyOf": [encoder, nothing]}
    model["decoders"]["additionalProperties"] = {"anyOf": [*decoders, nothing]}
    alignment, bridge = schema["$defs"]["HeadSettings"], schema["$defs"]["BridgeSettings"]
    alignment["properties"]["kind"]["enum"] = [*HEADS, None]
    heads = [HEADS.schema(name).model_json_schema() for name in HEADS]
    blocks = {name: BRIDGES.schema(name).model_json_schema() for name in BRIDGES}
    for part in (*heads, *blocks.values()):
        schema["$defs"].update(part.pop("$defs", {}))
    alignment["properties"]["params"]["anyOf"] = heads
    bridge["properties"] |= blocks
    bridge["properties"]["provider"]["enum"] = [*BRIDGES, None]
    bridge["additionalProperties"] = False
    preprocess = schema["$defs"]["Preprocess"]
    preprocess["additionalProperties"] = False
    preprocess["properties"] |= {
        name: FeatureSelection.model_json_schema()
        for name in MODALITIES
        if name not in preprocess["properties"]
    }
    schema["$defs"]["EvaluationSettings"]["properties"]["metrics"] |= {
        "properties": {name: METRICS.schema(name).model_json_schema() for name in METRICS},
        "additionalProperties": False,
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "remadom run configuration"
    return schema

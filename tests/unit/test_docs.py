"""The documentation is true: generated pages are fresh, and commands, keys, files and links exist.

A ``yaml`` block is a configuration, a ``bash`` block holds commands; what is neither is ``text``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml

from remadom.align import HEADS
from remadom.bridges import BRIDGES
from remadom.cli.app import app
from remadom.config.components import check_components, decoder_schema, encoder_schema
from remadom.config.load import gather, merge_bullets, validate
from remadom.config.schema import HeadSettings, RunConfig
from remadom.core.decoders import DECODERS
from remadom.data.modality import MODALITIES
from remadom.eval.imputation import binary_metrics, imputation_metrics
from remadom.eval.metrics import embedding_metrics
from remadom.eval.modalities import modality_metrics
from remadom.registry import Section
from remadom.schedule import SCHEDULES
from remadom.utils import outputs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
OTHER_PROGRAMS = {"git", "cd", "pip", "source"}
EXECUTED = "docs/extend.md:"
"""The page whose configuration needs what the page registers: tests/integration/test_extend.py runs it."""
SHORT = {"scripts/make_mock_multimodal.py": "mock"}
"""Scripts that are a command under another name."""


def blocks(language: str) -> list[tuple[str, str]]:
    """Fenced blocks of a language with their page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 2
            found.append((f"{page.relative_to(ROOT)}:{line}", match[1]))
    return found


def inline_code() -> list[tuple[str, str]]:
    """Inline code outside of fenced blocks, with its page."""
    found = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        found += [(str(page.relative_to(ROOT)), code) for code in re.findall(r"`([^`\n]+)`", prose)]
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Words of every command in the bash blocks, without comments and redirections."""
    found = []
    for where, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition(" >")[0], comments=True)
            if words:
                found.append((where, words))
    return found


def generator():
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs/generate_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("path", "text"), generator().pages().items(), ids=lambda v: getattr(v, "name", ""))
def test_generated_pages_are_fresh(path: Path, text: str):
    assert path.read_text(encoding="utf-8") == text, "stale: run python docs/generate_reference.py"


@pytest.mark.parametrize(("where", "text"), blocks("yaml"))
def test_yaml_blocks_are_configurations(where: str, text: str):
    if where.startswith(EXECUTED):
        return
    check_components(validate(merge_bullets(yaml.safe_load(text)), where))


def as_remadom(words: list[str]) -> list[str] | None:
    """Arguments of the program ``remadom`` for the same thing; ``None`` for other programs."""
    program = Path(words[0]).name  # the README calls what is in .venv/bin
    if program == "remadom":
        return words[1:]
    if program == "python" and words[1] == "-m":
        assert importlib.util.find_spec(words[2])
        return [words[2].rpartition(".")[2], *words[3:]] if words[2].startswith("remadom.cli.") else None
    if program == "python":
        assert (ROOT / words[1]).is_file()
        return [SHORT[words[1]], *words[2:]] if words[1] in SHORT else None
    if program == "make":
        targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(words[1:]) <= targets
        return None
    assert program in OTHER_PROGRAMS or (program.endswith(".sh") and (ROOT / words[0]).is_file())
    return None


def command_named(arguments: list[str]):
    """The command that the arguments begin with, its name, and the arguments left for it."""
    command, name = typer.main.get_command(app), "remadom"
    while arguments[0] == "--import":
        arguments = arguments[2:]
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    return command, name, arguments


@pytest.mark.parametrize(("where", "words"), commands())
def test_commands_and_their_options_exist(where: str, words: list[str]):
    arguments = as_remadom(words)
    if arguments is None:
        return
    command, name, arguments = command_named(arguments)
    with command.make_context(name, arguments) as context:
        overrides = [word for word in context.params.get("words") or () if "=" in word]
    check_components(validate(gather(None, overrides), where))


def test_commands_in_the_text_exist():
    for where, code in inline_code():
        if code.startswith("remadom "):
            words = code.split()[1:]
            assert words[0] == "--help" or command_named(words), (where, code)


def known_keys() -> set[str]:
    def walk(section: type[Section], path: str) -> Iterator[str]:
        for name, field in section.model_fields.items():
            yield path + name
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                yield from walk(field.annotation, f"{path}{name}.")

    keys = set(walk(RunConfig, ""))
    decoder = {key for name in DECODERS for key in decoder_schema(name).model_fields}
    for modality in (*MODALITIES, "<modality>"):
        keys |= {f"model.encoders.{modality}.{key}" for key in encoder_schema().model_fields}
        keys |= {f"model.decoders.{modality}.{key}" for key in decoder}
        mappings = ("model.encoders", "model.decoders", "model.fusion_temps", "model.modality_weights")
        keys |= {f"{mapping}.{modality}" for mapping in (*mappings, "data.keys")}
    keys |= {f"model.beta.{key}" for name in SCHEDULES for key in SCHEDULES.schema(name).model_fields}
    for head in (*HEADS, "<head>"):
        keys |= {f"alignment.{head}", *(f"alignment.{head}.{key}" for key in HeadSettings.model_fields)}
    for name in HEADS:
        keys |= {f"alignment.{name}.params.{key}" for key in HEADS.schema(name).model_fields}
    for name in BRIDGES:
        keys |= {f"bridge.{name}", *(f"bridge.{name}.{key}" for key in BRIDGES.schema(name).model_fields)}
    measured = ("integration", "modalities", "imputation", "trust", "scib", "<type>")
    keys |= {f"evaluation.{part}" for part in measured}  # of metrics.final.json
    return keys | {"model.beta.schedule"}


def test_keys_in_the_text_exist():
    keys, sections = known_keys(), "|".join(RunConfig.model_fields)
    said = {
        (where, m[0]) for where, code in inline_code() if (m := re.match(rf"({sections})\.[\w.<>]+", code))
    }
    assert len(said) > 50
    assert not {(where, key) for where, key in said if key not in keys}


def test_python_blocks_import_what_there_is():
    for where, text in blocks("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("remadom"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), where


def test_every_output_and_every_metric_is_described():
    rng = np.random.default_rng(0)
    z, counts = rng.normal(size=(60, 3)), rng.poisson(3, size=(60, 4))
    groups = rng.integers(0, 2, size=(2, 60))
    cells = {"a": np.arange(60), "b": np.arange(60)}
    metrics = {
        **embedding_metrics(z, *groups, before=z),
        **imputation_metrics(counts, counts[::-1]),
        **binary_metrics(counts, counts[::-1] > 2),
        **{
            re.sub("_a_to_b|_b_to_a", "_<a>_to_<b>", name): 0
            for name in modality_metrics({"a": z, "b": z}, cells, groups[0])["a-b"]
        },
    }
    assert len(metrics) > 35
    page = (ROOT / "docs/outputs.md").read_text(encoding="utf-8")
    assert not [name for name in (*outputs.OUTPUTS, *metrics) if f"`{name}`" not in page]


def test_messages_that_are_explained_exist():
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "remadom").rglob("*.py"))
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    explained = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert len(explained) > 15
    assert not [message for message in explained if message not in sources]


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)

"""Code of the user's own is found, imported once, and only when a command runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from remadom.cli.app import app
from remadom.errors import InputError
from remadom.utils.extensions import load_extensions


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty folder to work in; modules that are imported from it are forgotten again."""
    monkeypatch.chdir(tmp_path)
    path, before = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(path: str, text: str = "imported = []\n") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


COUNTING = "with open('log', 'a') as log:\n    log.write('x')\n"


def times() -> int:
    return len(Path("log").read_text()) if Path("log").exists() else 0


def test_modules_of_the_folder_and_files_are_imported_once(here: Path):
    write("our_parts/__init__.py", "")
    write("our_parts/first.py", COUNTING)
    write("deep/second.py", COUNTING)
    for _ in range(2):
        load_extensions(["our_parts.first", "deep/second.py", str(here / "deep/second.py")])
    assert times() == 2


def test_a_module_of_the_folder_cannot_stand_in_for_an_installed_one():
    write("yaml.py", COUNTING)
    load_extensions(["yaml"])
    assert times() == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_parts", "--import no_such_parts: found no module 'no_such_parts'"),
        ("our_parts.none", "found no module 'our_parts.none'"),
        ("none.py", "--import none.py: there is no such file"),
        ("our-parts", "expected the name of a module"),
        ("../parts", "expected the name of a module"),
        ("taken.py", "--import taken.py: likelihood 'zinb' is already registered"),
    ],
)
def test_what_cannot_be_imported_is_told(name: str, words: str):
    write("our_parts/__init__.py", "")
    write("taken.py", "from remadom.core.decoders import DECODERS\n\nDECODERS.register('zinb')(int)\n")
    with pytest.raises(InputError, match=words):
        load_extensions([name])


def test_an_error_in_a_module_is_the_users_to_see():
    write("wrong.py", "import a_package_that_is_not_there\n")
    for name in ("wrong", "wrong.py"):
        with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
            load_extensions([name])
    write("worse.py", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_extensions(["worse.py"])
    write("worse.py", COUNTING)
    load_extensions(["worse.py"])
    assert times() == 1, "a file that failed can be imported when it is mended"


def install(folder: Path, module: str) -> None:
    """An installed package with an entry point."""
    info = folder / "our_extension-1.0.dist-info"
    write(f"{info}/METADATA", "Metadata-Version: 2.1\nName: our-extension\nVersion: 1.0\n")
    write(f"{info}/entry_points.txt", f"[remadom]\nparts = {module}\n")


def test_installed_packages_are_imported_when_a_command_runs(here: Path, monkeypatch: pytest.MonkeyPatch):
    write("site/our_extension.py", COUNTING)
    install(here / "site", "our_extension")
    monkeypatch.syspath_prepend(here / "site")
    for words in (["--help"], ["--version"], ["train", "--help"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert times() == 0
    assert CliRunner().invoke(app, ["train"]).exit_code == 2
    assert times() == 1


def test_a_broken_installed_package_is_named(here: Path, monkeypatch: pytest.MonkeyPatch):
    install(here / "site", "our_extension")
    monkeypatch.syspath_prepend(here / "site")
    result = CliRunner().invoke(app, ["train"])
    assert result.exit_code == 2
    assert "package our-extension" in result.stderr
    assert "mend it or uninstall it" in result.stderr


def test_the_option_is_for_the_command_that_runs():
    write("ours.py", COUNTING)
    assert CliRunner().invoke(app, ["--import", "ours.py", "train", "--help"]).exit_code == 0
    assert times() == 0, "help runs nothing"
    told = CliRunner().invoke(app, ["--import", "ours.py", "--import", "none.py", "train"])
    assert (told.exit_code, times()) == (2, 1)
    assert "none.py" in told.stderr
    assert "none.py" not in CliRunner().invoke(app, ["train"]).stderr, "nothing is left of an earlier command"

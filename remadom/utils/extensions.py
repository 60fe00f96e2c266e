"""Code of the user's own that registers components: installed as an entry point, or named on the command line.

Nothing is imported because a configuration or a checkpoint names it: reading one can run no code.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from remadom.errors import InputError

GROUP = "remadom"
"""Entry points of this group are modules that register components when they are imported."""


def load_extensions(named: Iterable[str] = ()) -> None:
    """Import what registers components: first the installed entry points, then the modules that are named.

    Parameters
    ----------
    named
        Modules (``my_package.my_module``), searched among those that are installed and last in the current folder, or
        paths of ``.py`` files.

    Raises
    ------
    InputError
        There is no such module or file, an installed one cannot be imported, or a name that one registers is taken.
        What else goes wrong in a module is raised as it is, with the line.
    """
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.value):
        try:
            point.load()
        except ImportError as error:
            package = point.dist.name if point.dist is not None else point.value
            raise InputError(
                f"the installed package {package} extends remadom by {point.value}, which cannot be imported "
                f"({error}); mend it or uninstall it"
            ) from error
    for name in named:
        try:
            _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
        except InputError as error:
            raise InputError(f"--import {name}: {error}") from error


def _import_module(name: str) -> None:
    if not all(part.isidentifier() for part in name.split(".")):
        raise InputError(
            "expected the name of a module, such as my_package.my_module, or the path of a .py file"
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last: a file here cannot stand in for a module that is installed
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"found no module '{error.name}' among those that are installed and in {here}; install it, or give the "
            "path of a .py file"
        ) from None


def _import_file(path: Path) -> None:
    """Run a file as a module that is called by its path, so that it cannot be mistaken for another one."""
    name = str(path.resolve())
    if name in sys.modules:
        return
    if not path.is_file():
        raise InputError("there is no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise

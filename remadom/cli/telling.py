"""How commands tell what went wrong: one clear line for a user's error, a traceback only for ours."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import typer

from remadom.errors import InputError, TrainingDiverged

logger = logging.getLogger("remadom")

P = ParamSpec("P")
T = TypeVar("T")

USER_ERROR = 2
DIVERGED = 1
INTERRUPTED = 130

NAMED: ContextVar[tuple[str, ...]] = ContextVar("modules named with --import", default=())


def told(command: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a command: a user's error ends it with exit code 2 and the message on standard error.

    Before the command runs, the components of the user's own are registered (``--import``, entry points).
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        handler = logging.StreamHandler(sys.stderr)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        propagate, logger.propagate = logger.propagate, False  # other libraries set up the root logger
        try:
            _extend()
            return command(*args, **kwargs)
        except InputError as error:
            _stop(f"error: {error}", USER_ERROR)
        except TrainingDiverged as error:
            _stop(f"stopped: {error}", DIVERGED)
        except KeyboardInterrupt:
            _stop("interrupted: the last checkpoint is complete, continue with --resume", INTERRUPTED)
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate
        raise AssertionError

    return wrapped


def _extend() -> None:
    """Import what registers components, as late as this: not to show help, nor to print the version."""
    from remadom.utils.extensions import load_extensions

    load_extensions(NAMED.get())


def _stop(message: str, code: int) -> None:
    typer.secho(message, err=True, fg=typer.colors.RED)
    raise typer.Exit(code)

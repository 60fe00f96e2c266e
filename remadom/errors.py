"""What a user did that cannot work: errors that say what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A configuration, a file or an argument that cannot be used as it is.

    The message says what was found, what was expected and what to do. Commands print it in one line and
    exit with code 2; nothing has been trained or written when it is raised.
    """


class MissingExtra(InputError):
    """An optional package is needed and is not installed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package}, which is not installed; "
            f"install it with: pip install 'remadom[{extra}]'"
        )


class TrainingDiverged(ArithmeticError):
    """The loss became NaN or infinite; the message names the term, the cells and the last good checkpoint."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Close of an error message: the nearest of ``choices`` to ``word``, and all of them.

    Returns
    -------
    str
        For example ``"did you mean 'epochs'? (valid: epochs, lr)"``.
    """
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    listed = ", ".join(known) or "none"
    return f"did you mean '{close[0]}'? (valid: {listed})" if close else f"valid: {listed}"

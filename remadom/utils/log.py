"""What the library warns of while something runs, kept for its report."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Kept(logging.Handler):
    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Messages of warnings and errors that remadom logs inside of the block, in their order."""
    handler = _Kept([])
    logger = logging.getLogger("remadom")
    logger.addHandler(handler)
    try:
        yield handler.kept
    finally:
        logger.removeHandler(handler)

"""What is seen of a run: a bar on a terminal, one logged line an epoch elsewhere."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)


class Progress(ABC):
    """Told of every step and every epoch, between ``start`` and ``stop``."""

    def start(self) -> None:  # noqa: B027 lines need no beginning
        """Training begins."""

    @abstractmethod
    def step(self) -> None:
        """A step is done."""

    @abstractmethod
    def epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done, with its entry in the history."""

    def stop(self) -> None:  # noqa: B027 lines need no end
        """Training ended, or broke off."""


class Lines(Progress):
    """One logged line an epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def step(self) -> None:
        pass

    def epoch(self, record: dict[str, Any]) -> None:
        logger.info("epoch %d/%d: %s", record["epoch"], self.epochs, summary(record))


class Bar(Progress):
    """A bar on standard error: epochs, the last epoch's values, steps of the epoch, time left.

    Parameters
    ----------
    epochs
        Epochs of the run.
    done
        Epochs already finished.
    steps
        Steps of an epoch, 0 where unknown.
    """

    def __init__(self, epochs: int, done: int, steps: int) -> None:
        columns = (
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
        )
        self.bar = RichProgress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task("", total=epochs, completed=done, values="")
        self.part = 1 / steps if steps else 0.0

    def start(self) -> None:
        self.bar.start()

    def step(self) -> None:
        self.bar.advance(self.task, self.part)

    def epoch(self, record: dict[str, Any]) -> None:
        self.bar.update(self.task, completed=record["epoch"], values=summary(record))

    def stop(self) -> None:
        self.bar.stop()


def show_progress(epochs: int, done: int, steps: int) -> Progress:
    """A bar if standard error is a terminal, else lines."""
    return Bar(epochs, done, steps) if sys.stderr.isatty() else Lines(epochs)


def summary(record: dict[str, Any]) -> str:
    """Loss, validation loss, rate and speed of an epoch in one line."""
    losses = (("loss", record["train"]), ("val.loss", record["val"]))
    values = [f"{name} {logs['loss']:.6g}" for name, logs in losses if "loss" in logs]
    return ", ".join([*values, f"lr {record['lr']:.3g}", f"{record['cells_per_s']:,.0f} cells/s"])

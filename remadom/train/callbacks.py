"""What a run writes while it trains: ``train_log.csv``, ``train_history.json``, TensorBoard events."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remadom.errors import InputError, MissingExtra
from remadom.utils.files import write_text

Row = Mapping[str, float]
"""One row of a log: ``epoch``, ``step``, ``lr`` and the means by name."""


@dataclass(frozen=True)
class History:
    """How a run went.

    Attributes
    ----------
    epochs
        Epochs finished.
    reason
        Why it stopped, in words; ``None`` while it runs.
    monitor
        Name of the monitored value, ``None`` where nothing was.
    best_epoch, best_value
        Where the monitored value was best.
    history
        One entry an epoch: ``epoch``, ``step``, ``lr``, ``train`` and ``val`` (means per cell by name; ``val``
        is empty without validation), ``seconds`` and ``cells_per_s`` of the training pass.
    """

    epochs: int
    reason: str | None
    monitor: str | None
    best_epoch: int | None
    best_value: float | None
    history: list[dict[str, Any]]

    def write(self, path: Path, lines: Sequence[str]) -> None:
        """Write as JSON, an epoch a line, of which each is the :func:`json_line` of its entry of ``history``."""
        about = json_line({**vars(self), "history": []})
        epochs = ",\n".join(lines)
        write_text(path, about.removesuffix("]}") + f"\n{epochs}\n]}}\n")

    @classmethod
    def read(cls, path: Path) -> History:
        """What :meth:`write` wrote.

        Raises
        ------
        InputError
            There is no such file.
        """
        if not path.exists():
            raise InputError(f"{path} does not exist; expected the history of a run that was trained")
        return cls(**json.loads(path.read_text()))


def json_line(entry: dict[str, Any]) -> str:
    """An entry as JSON on one line; a value that is not finite becomes null."""
    return json.dumps(_finite(entry), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Log(ABC):
    """Takes rows while a run trains."""

    @abstractmethod
    def write(self, row: Row) -> None:
        """Take a row."""

    @abstractmethod
    def flush(self) -> None:
        """Make all rows so far visible to a reader."""

    def close(self) -> None:
        """No more rows come."""
        self.flush()


class CsvLog(Log):
    """``train_log.csv``, complete whenever it is looked at.

    The file is replaced as a whole (atomically) on :meth:`flush`, and by a row that comes ten seconds or more
    after the last replacement. Columns are those of the first row; a name that turns up later adds a column,
    empty in the rows before it.

    Parameters
    ----------
    path
        The file.
    done
        Steps that are done and not to be repeated: rows of an earlier file up to this step are kept.
    """

    SECONDS = 10.0

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        self.columns: list[str] = []
        self.lines: list[str] = []
        self._written = time.monotonic()
        if done and path.is_file():
            self._keep(done)

    def _keep(self, done: int) -> None:
        with open(self.path, newline="", encoding="utf-8") as file:
            self.columns, *rows = csv.reader(file)
        if "step" not in self.columns:
            raise InputError(f"{self.path} is not a training log (no column 'step'); move it away to resume")
        step = self.columns.index("step")
        self.lines = [_line(row) for row in rows if int(row[step]) <= done]

    def write(self, row: Row) -> None:
        added = [name for name in row if name not in self.columns]
        if added:
            self.columns += added
            self.lines = [line + "," * len(added) for line in self.lines]
        self.lines.append(_line([row.get(name, "") for name in self.columns]))
        if time.monotonic() - self._written > self.SECONDS:
            self.flush()

    def flush(self) -> None:
        if not self.lines:
            return
        write_text(self.path, "\n".join([_line(self.columns), *self.lines]) + "\n")
        self._written = time.monotonic()


def _line(fields: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


class TensorBoardLog(Log):
    """TensorBoard events in a folder.

    Parameters
    ----------
    folder
        Where the event files go.
    done
        Events of later steps, from a run that was killed, are hidden.

    Raises
    ------
    MissingExtra
        TensorBoard is not installed.
    """

    def __init__(self, folder: Path, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("tensorboard", "tensorboard", "logging.tensorboard") from None
        self.writer = SummaryWriter(str(folder), purge_step=done + 1)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, int(row["step"]))

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

"""The folder of a run: its checkpoints, its logs and its history, each always whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remadom.errors import InputError
from remadom.train.callbacks import CsvLog, History, Log, TensorBoardLog
from remadom.train.settings import LoggingSettings
from remadom.train.state import State
from remadom.utils.checkpoint import refuse_objects
from remadom.utils.files import second_name
from remadom.utils.outputs import BEST, BEST_TOO, HISTORY, LAST, LAST_TOO, LOG


class RunFolder:
    """Takes what a run has to keep.

    Parameters
    ----------
    path
        The folder, made when the first file is written; ``None`` keeps nothing.
    logging
        Whether to write TensorBoard events too.
    metadata
        Plain values for every checkpoint.

    Attributes
    ----------
    good_checkpoint
        The last checkpoint that was written or resumed from.
    """

    def __init__(self, path: Path | None, logging: LoggingSettings, metadata: Mapping[str, Any]) -> None:
        if logging.tensorboard and path is None:
            raise InputError("logging.tensorboard needs a folder for its events; give run_dir")
        refuse_objects(metadata, "metadata")  # now, not at the end of the first epoch
        self.path, self.logging, self.metadata = path, logging, dict(metadata)
        self.good_checkpoint: Path | None = None
        self._logs: list[Log] = []

    def open(self, state: State) -> None:
        """Begin the logs, after the steps that are done."""
        if self.path is not None:
            self._logs = [CsvLog(self.path / LOG, state.step)]
            if self.logging.tensorboard:
                self._logs.append(TensorBoardLog(self.path / "tensorboard", state.step))

    def close(self) -> None:
        """Close the logs with the rows that they have."""
        for log in self._logs:
            log.close()

    def row(self, state: State, means: Mapping[str, float]) -> None:
        """One row of the logs: the means of the steps since the last one."""
        row = {"epoch": state.epoch + 1, "step": state.step, "lr": state.lr, **means}
        for log in self._logs:
            log.write(row)

    def end_epoch(self, state: State, improved: bool) -> None:
        """Keep the state at the end of an epoch, as the best one too if it is."""
        for log in self._logs:
            log.flush()  # before the checkpoint, whose steps must all be in the logs
        if self.path is not None:
            self.good_checkpoint = self.path / LAST
            state.save(self.good_checkpoint, self.metadata)
            second_name(self.good_checkpoint, self.path / LAST_TOO)
            if improved:
                self._keep_best(self.good_checkpoint)
        self.history(state, None)

    def history(self, state: State, reason: str | None) -> History:
        """How the run went so far, also written to ``train_history.json``."""
        watch = state.watch
        history = History(
            state.epoch, reason, state.monitor, watch.best_epoch, watch.best, list(state.history)
        )
        if self.path is not None:
            history.write(self.path / HISTORY, state.lines)
        return history

    def resume(self, state: State, checkpoint: Path) -> None:
        """Let the state take up a checkpoint, and see that the best one is here too."""
        state.resume(checkpoint)
        self.good_checkpoint = checkpoint
        if self.path is not None and state.watch.best_epoch is not None:
            # it is not after a kill between the writing of the two, or where the checkpoint is of another folder
            here = state.watch.best_epoch == state.epoch
            best = checkpoint if here else checkpoint.with_name(BEST)
            if best.is_file() and best != self.path / BEST:
                self._keep_best(best)

    def _keep_best(self, source: Path) -> None:
        assert self.path is not None
        for name in (BEST, BEST_TOO):
            second_name(source, self.path / name)

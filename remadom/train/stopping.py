"""The monitored value: its best, how long it has not improved, and why a run stops."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

from remadom.errors import InputError, nearest
from remadom.train.settings import OptimSettings


class Watch:
    """A value followed from epoch to epoch.

    Parameters
    ----------
    mode
        Whether lower (``"min"``) or higher (``"max"``) is better.
    min_delta
        A change smaller than this is no improvement for :attr:`waited`; the best value and its epoch
        are kept exactly.
    """

    def __init__(self, mode: Literal["min", "max"], min_delta: float) -> None:
        self.mode, self.min_delta = mode, min_delta
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.reference: float | None = None
        self.waited = 0

    def update(self, value: float, epoch: int) -> bool:
        """Take the value of an epoch; whether it is the best so far (NaN never is)."""
        gain = self._gain(value, self.reference)
        if gain > 0 and gain >= self.min_delta:
            self.reference, self.waited = value, 0
        else:
            self.waited += 1
        if self._gain(value, self.best) > 0:
            self.best, self.best_epoch = value, epoch
            return True
        return False

    def _gain(self, value: float, over: float | None) -> float:
        if over is None:
            return -math.inf if math.isnan(value) else math.inf
        return over - value if self.mode == "min" else value - over

    def state_dict(self) -> dict[str, Any]:
        """The counters, for a checkpoint."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "reference": self.reference,
            "waited": self.waited,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the counters of a checkpoint."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.reference, self.waited = state["reference"], state["waited"]


def monitored(optim: OptimSettings, validates: bool) -> str | None:
    """Name of the value to watch: the ``val.`` form where there is validation, ``None`` where nobody asks.

    Raises
    ------
    InputError
        A ``val.`` name without validation cells.
    """
    wanted = optim.early_stopping.enabled or optim.scheduler.name == "plateau" or validates
    name = optim.early_stopping.monitor
    if name.startswith("val."):
        if not validates and wanted:
            raise InputError(
                f"optim.early_stopping.monitor is '{name}', but there are no validation cells; "
                "give some (data.val_fraction, data.split_key), or monitor "
                f"'{name.removeprefix('val.')}'"
            )
        return name if wanted else None
    return (f"val.{name}" if validates else name) if wanted else None


def check_monitor(monitor: str, logged: Collection[str]) -> None:
    """Refuse a name that the first step did not log.

    Raises
    ------
    InputError
        With the names that were logged.
    """
    name = monitor.removeprefix("val.")
    if name not in logged:
        raise InputError(
            f"optim.early_stopping.monitor: nothing logs '{name}': {nearest(name, logged)}; "
            "the 'val.' form of each can be used where there are validation cells"
        )


def reason_to_stop(optim: OptimSettings, watch: Watch, monitor: str | None, epoch: int) -> str | None:
    """Why training ends after ``epoch`` finished epochs, in words; ``None`` if it goes on."""
    stopping = optim.early_stopping
    if stopping.enabled and watch.waited >= stopping.patience:
        by = f" by {stopping.min_delta:g}" if stopping.min_delta else ""
        best = "never finite" if watch.best is None else f"best {watch.best:.6g} at epoch {watch.best_epoch}"
        epochs = "1 epoch" if watch.waited == 1 else f"{watch.waited} epochs"
        verb = "fall" if stopping.mode == "min" else "rise"
        return f"stopped at epoch {epoch}: {monitor} did not {verb}{by} for {epochs} ({best})"
    if epoch >= optim.epochs:
        return "finished the only epoch" if epoch == 1 else f"finished all {epoch} epochs"
    return None

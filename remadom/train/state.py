"""Everything that a run is at the end of an epoch: what a checkpoint holds and what resuming takes up."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from remadom.errors import InputError
from remadom.train.callbacks import json_line
from remadom.train.interface import Trainable
from remadom.train.optim import LearningRate, adamw
from remadom.train.settings import OptimSettings
from remadom.train.stopping import Watch
from remadom.utils.checkpoint import load_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

_PARTS = {
    *("model", "optimizer", "rate", "scaler", "watch"),
    *("monitor", "epoch", "step", "history", "optim", "metadata"),
}


class State:
    """Weights, optimizer, rate, scaler, the monitored value, counters and history.

    No generator is part of it: every step seeds its noise from ``optim.seed`` and its number.

    Attributes
    ----------
    epoch, step
        Epochs and steps done.
    monitor
        Name of the monitored value, ``None`` if there is none.
    history
        One entry for each epoch done; of epochs before a resume, a value that was not finite is ``None``.
    lines
        The same entries as JSON: made once, as checkpoints of all epochs so far are written every epoch.
    """

    def __init__(
        self, objective: Trainable, optim: OptimSettings, device: torch.device, half: torch.dtype | None
    ) -> None:
        self.objective, self.optim = objective, optim
        self.optimizer = adamw(objective.parameters(), optim, device)
        self.rate = LearningRate(self.optimizer, optim)
        self.scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
        self.watch = Watch(optim.early_stopping.mode, optim.early_stopping.min_delta)
        self.monitor: str | None = None
        self.epoch = self.step = 0
        self.history: list[dict[str, Any]] = []
        self.lines: list[str] = []

    @property
    def lr(self) -> float:
        """Learning rate of the epoch under way, or of the last one."""
        return float(self.optimizer.param_groups[0]["lr"])

    def add_epoch(self, entry: dict[str, Any]) -> None:
        """Keep what an epoch came to."""
        self.history.append(entry)
        self.lines.append(json_line(entry))

    def save(self, path: Path, metadata: dict[str, Any]) -> None:
        """Write a checkpoint."""
        save_checkpoint(
            path,
            model=self.objective.state_dict(),
            optimizer=self.optimizer.state_dict(),
            rate=self.rate.state_dict(),
            scaler=self.scaler.state_dict(),
            watch=self.watch.state_dict(),
            monitor=self.monitor,
            epoch=self.epoch,
            step=self.step,
            history=self.lines,
            optim=self.optim.model_dump(),
            metadata=metadata,
        )

    def resume(self, path: Path) -> None:
        """Take up a checkpoint; the settings stay those of this run.

        Raises
        ------
        InputError
            Not a checkpoint of training, another model, another seed or batch size, or more epochs than wanted.
        """
        saved = load_checkpoint(path)
        missing = _PARTS - saved.keys()
        if missing:
            raise InputError(f"{path} cannot be resumed from: it lacks {', '.join(sorted(missing))}")
        self._check_settings(saved, path)
        try:
            self.objective.load_state_dict(saved["model"])
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise InputError(f"{path} holds another model than this configuration: {lines[1]}") from None
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": groups})
        if self.scaler.is_enabled() and saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
        mode = saved["optim"]["early_stopping"]["mode"]
        if (saved["monitor"], mode) == (self.monitor, self.watch.mode):
            self.watch.load_state_dict(saved["watch"])
            self.rate.load_state_dict(saved["rate"])
        else:
            logger.warning(
                "%s monitored %s (%s), now it is %s (%s): its best value starts anew",
                *(path, saved["monitor"], mode, self.monitor, self.watch.mode),
            )
        self.epoch, self.step = saved["epoch"], saved["step"]
        self.history, self.lines = [], []
        for entry in saved["history"]:  # which were dicts at first
            self.add_epoch(json.loads(entry) if isinstance(entry, str) else entry)

    def _check_settings(self, saved: dict[str, Any], path: Path) -> None:
        old, new = _flat(saved["optim"]), _flat(self.optim.model_dump())
        for key in ("seed", "batch_size"):
            if old[key] != new[key]:
                raise InputError(
                    f"{path} was trained with optim.{key} {old[key]}, this run has {new[key]}: its cells would "
                    f"come in another order; resume with optim.{key}={old[key]}, or start anew"
                )
        if saved["epoch"] > self.optim.epochs:
            raise InputError(
                f"{path} has trained {saved['epoch']} epochs, optim.epochs is {self.optim.epochs}; raise it"
            )
        changed = [f"{key} {old.get(key)} -> {new[key]}" for key in new if old.get(key) != new[key]]
        logger.info(
            "resuming %s after %d epochs (%d steps)%s",
            *(path, saved["epoch"], saved["step"], f"; changed: {', '.join(changed)}" if changed else ""),
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat

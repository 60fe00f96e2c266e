"""The training loop: epochs of steps, validation, checkpoints, and why it stopped."""

from __future__ import annotations

import logging as log
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from remadom.errors import InputError, TrainingDiverged
from remadom.train.callbacks import History
from remadom.train.divergence import Health, explain
from remadom.train.folder import RunFolder
from remadom.train.interface import Reorders, Replayable, Staged, Trainable
from remadom.train.meter import Meter
from remadom.train.optim import choose_device, choose_precision, choose_replay
from remadom.train.progress import Progress, show_progress
from remadom.train.settings import LoggingSettings, OptimSettings
from remadom.train.state import State
from remadom.train.stopping import check_monitor, monitored, reason_to_stop
from remadom.types import Batch
from remadom.utils.memory import keep_freed_memory
from remadom.utils.seed import derive, private_noise, seed_noise

logger = log.getLogger(__name__)


class Trainer:
    """Trains an objective, once; a second call of :meth:`fit` goes on with the epoch that was not finished.

    Parameters
    ----------
    objective
        An ``nn.Module`` that is :class:`~remadom.train.interface.Trainable`; moved to ``optim.device``.
    optim
        How to train.
    run_dir
        Folder for checkpoints and logs; ``None`` writes nothing.
    logging
        How often to log, and whether to TensorBoard.
    metadata
        Plain values kept in each checkpoint: configuration, feature names and the like.
    cell_names
        Names of all cells of the data, for the message of a run that diverged.

    Notes
    -----
    Every step seeds its noise from ``optim.seed`` and its number, so on a CPU a run is the same to the bit
    whether or not it was interrupted and resumed, and a step that failed can be repeated to see why.
    """

    def __init__(
        self,
        objective: Trainable,
        optim: OptimSettings,
        *,
        run_dir: str | Path | None = None,
        logging: LoggingSettings = LoggingSettings(),  # noqa: B008 frozen
        metadata: Mapping[str, Any] | None = None,
        cell_names: Sequence[str] | None = None,
    ) -> None:
        self.device = choose_device(optim.device)
        keep_freed_memory()
        self.half = choose_precision(optim.amp, self.device)
        self.eager = self.device.type != "cuda" or optim.detect_anomaly  # whether to read each loss at once
        self.replays = choose_replay(optim, self.device, self.half)
        objective.to(self.device)
        self.objective, self.optim, self.logging, self.cell_names = objective, optim, logging, cell_names
        self.staged = objective if isinstance(objective, Staged) else None
        self.folder = RunFolder(None if run_dir is None else Path(run_dir), logging, metadata or {})
        self.state = State(objective, optim, self.device, self.half)

    def fit(
        self,
        train_loader: Iterable[Batch],
        val_loader: Iterable[Batch] | None = None,
        *,
        resume: str | Path | None = None,
    ) -> History:
        """Train until ``optim.epochs`` epochs are done or the monitored value no longer improves.

        The objective keeps the weights of the last epoch; those of the best are in ``best.pt``. An interrupted
        call (Ctrl-C) leaves the checkpoint of the last whole epoch. The caller's random numbers go on
        afterwards as if nothing had been drawn.

        Parameters
        ----------
        train_loader, val_loader
            Batches of the training and of the validation cells. ``set_epoch`` is called where there is one.
        resume
            Checkpoint to go on from, after its last whole epoch.

        Raises
        ------
        InputError
            No cells, a monitored value that nothing logs, or a checkpoint of another run.
        TrainingDiverged
            A loss or gradient that is not finite; the weights are those before that step.
        """
        state = self.state
        state.monitor = monitored(self.optim, val_loader is not None)
        if resume is not None:
            self.folder.resume(state, Path(resume))
        with ExitStack() as stack:
            stack.enter_context(private_noise(self.device))
            if self.optim.detect_anomaly:
                stack.enter_context(torch.autograd.set_detect_anomaly(True))
            if self.replays and isinstance(self.objective, Replayable):
                stack.enter_context(self.objective.replaying())
            self.folder.open(state)
            stack.callback(self.folder.close)
            progress = show_progress(self.optim.epochs, state.epoch, operator.length_hint(train_loader))
            progress.start()
            stack.callback(progress.stop)
            while (reason := reason_to_stop(self.optim, state.watch, state.monitor, state.epoch)) is None:
                self._epoch(train_loader, val_loader, progress)
        self.objective.eval()
        logger.info(reason)
        return self.folder.history(state, reason)

    def _epoch(
        self,
        train_loader: Iterable[Batch],
        val_loader: Iterable[Batch] | None,
        progress: Progress,
    ) -> None:
        state = self.state
        state.rate.begin(state.epoch)
        if self.staged is not None:
            self.staged.begin_epoch(state.epoch, operator.length_hint(train_loader))
        meter = Meter(self.device)
        started = time.perf_counter()
        self._train(train_loader, meter, progress)
        last = meter.read()
        seconds = time.perf_counter() - started
        train = meter.epoch()
        if self.staged is not None:
            self.staged.end_epoch(train)
        val = {} if val_loader is None else self._validate(val_loader)
        val_logs = {f"val.{name}": value for name, value in val.items()}
        self.folder.row(state, last | val_logs)

        state.epoch += 1
        record = {"epoch": state.epoch, "step": state.step, "lr": state.lr, "train": train, "val": val}
        record |= {"seconds": seconds, "cells_per_s": meter.cells / seconds}
        state.add_epoch(record)
        value = None if state.monitor is None else (train | val_logs)[state.monitor]
        improved = value is not None and state.watch.update(value, state.epoch)
        state.rate.end(value, state.epoch)
        self.folder.end_epoch(state, improved)
        progress.epoch(record)

    def _train(self, loader: Iterable[Batch], meter: Meter, progress: Progress) -> None:
        state, clip = self.state, self.optim.grad_clip
        optimizer, scaler = state.optimizer, state.scaler
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        health = Health(self.device, self.eager)
        n_batches = operator.length_hint(loader)
        first = read = state.step

        def now() -> float:
            return state.epoch + ((state.step - first) / n_batches if n_batches else 0.0)

        self.objective.train()
        self._begin_order(loader)

        for batch in loader:
            if len(meter) == self.logging.log_interval:
                if health.first_bad() is not None:
                    break
                self.folder.row(state, meter.read())
                health.forget()
                read = state.step
            seed_noise(self.device, derive(self.optim.seed, "step", state.step))
            with self._autocast():
                loss, scalars = self.objective(batch.to(self.device, non_blocking=True), now())
            if state.step == first and state.monitor is not None:
                check_monitor(state.monitor, scalars)
            if not health.keeps(loss):
                break
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss * health.value).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
            if not scaler.is_enabled():  # under fp16 a gradient that overflows is the scaler's business
                if not health.keeps(norm):
                    break
                health.guard(optimizer)
            if clip and not (self.eager and norm <= clip):
                clip_grads_with_norm_(parameters, clip, norm)
            scaler.step(optimizer)
            scaler.update()
            state.step += 1
            health.end_step()
            if self.staged is not None:
                scalars |= self.staged.gradients()
            meter.add(scalars, int(batch.seed.sum()))
            progress.step()

        bad = health.first_bad()
        if bad is not None:
            state.step = read + bad
            batch = batch if self.eager else self._again(loader, state.step - first)
            raise self._diverged(batch, now())
        if not meter.cells:
            raise InputError("there are no training cells: the training loader gave no batch")
        if scaler.is_enabled() and scaler.get_scale() < 2.0**-24:
            raise TrainingDiverged(
                f"training diverged in epoch {state.epoch + 1}: no gradient is finite in fp16, however small the "
                f"loss is scaled; last good checkpoint: {self.folder.good_checkpoint or 'none yet'}. "
                "Set optim.amp.dtype to bf16, or turn off optim.amp"
            )

    def _validate(self, loader: Iterable[Batch]) -> dict[str, float]:
        self.objective.eval()
        _set_epoch(loader, 0)
        seed_noise(self.device, derive(self.optim.seed, "validation"))
        meter = Meter(self.device)
        with torch.no_grad():
            for batch in loader:
                with self._autocast():
                    scalars = self.objective.score(batch.to(self.device, non_blocking=True))
                meter.add(scalars, int(batch.seed.sum()))
                if len(meter) == self.logging.log_interval:
                    meter.read()
        meter.read()
        if not meter.cells:
            raise InputError("there are no validation cells: the validation loader gave no batch")
        return meter.epoch()

    def _autocast(self) -> torch.amp.autocast:
        return torch.amp.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)

    def _begin_order(self, loader: Iterable[Batch]) -> None:
        seed_noise(self.device, derive(self.optim.seed, "epoch", self.state.epoch))
        _set_epoch(loader, self.state.epoch)

    def _again(self, loader: Iterable[Batch], position: int) -> Batch:
        self._begin_order(loader)
        return next(islice(loader, position, None))

    def _diverged(self, batch: Batch, at: float) -> TrainingDiverged:
        """Repeat the step that failed, with the same noise, and say what was not finite in it."""
        batch = batch.to(self.device)
        noise = derive(self.optim.seed, "step", self.state.step)
        seed_noise(self.device, noise)
        with torch.no_grad(), self._autocast():
            terms = self.objective.blame(batch, at)
        if not terms:
            seed_noise(self.device, noise)
            self.state.optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                loss, _ = self.objective(batch, at)
            loss.backward()  # type: ignore[no-untyped-call]
        where = explain(terms, batch, self.cell_names, self.objective.named_parameters())
        clip = "lower optim.grad_clip" if self.optim.grad_clip else "set optim.grad_clip to 10"
        half = "" if self.half is None else ", or turn off optim.amp"
        return TrainingDiverged(
            f"training diverged at epoch {self.state.epoch + 1}, step {self.state.step + 1}: not finite: "
            f"{where}. That step did not change the weights; last good checkpoint: "
            f"{self.folder.good_checkpoint or 'none yet'}. "
            f"Check the counts of these cells, lower optim.lr ({self.optim.lr:g}), {clip}{half}"
        )


def _set_epoch(loader: Iterable[Batch], epoch: int) -> None:
    if isinstance(loader, Reorders):
        loader.set_epoch(epoch)

"""The trainer on small objectives whose behavior is known."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from remadom.errors import InputError, MissingExtra, TrainingDiverged
from remadom.train import trainer as trainer_module
from remadom.train.callbacks import CsvLog, TensorBoardLog
from remadom.train.meter import Meter
from remadom.train.settings import LoggingSettings, OptimSettings
from remadom.train.trainer import Trainer
from remadom.types import Batch, Rows
from remadom.utils.checkpoint import load_checkpoint, save_checkpoint

N_CELLS, N_GENES, BATCH = 20, 3, 8
NAMES = [f"CELL{i}" for i in range(N_CELLS)]


def features() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(N_CELLS, N_GENES)).astype(np.float32))


def batch_of(index: np.ndarray, x: torch.Tensor) -> Batch:
    rows = torch.from_numpy(index)
    return Batch(
        x={"rna": Rows.from_dense(x[rows])},
        has={"rna": torch.ones(len(index), dtype=torch.bool)},
        library={"rna": 2 * x[rows, 0] - x[rows, 1] + 5},
        groups={},
        index=rows,
        seed=torch.ones(len(index), dtype=torch.bool),
    )


class Cells:
    """Twenty cells in batches of 8, 8 and 4, in an order of their own every epoch."""

    def __init__(self, x: torch.Tensor | None = None, shuffle: bool = True, n_cells: int = N_CELLS) -> None:
        self.x, self.shuffle, self.n_cells, self.epoch = features() if x is None else x, shuffle, n_cells, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.n_cells / BATCH)

    def __iter__(self):
        order = np.arange(self.n_cells)
        if self.shuffle:
            order = np.random.default_rng([7, self.epoch]).permutation(order)
        for start in range(0, self.n_cells, BATCH):
            yield batch_of(order[start : start + BATCH], self.x)


class Regression(nn.Module):
    """Predicts a cell's library from its features, with dropout and noise."""

    def __init__(self, noise: float = 0.1) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(N_GENES, 8), nn.LayerNorm(8), nn.Linear(8, 1)
        self.dropout, self.noise = nn.Dropout(0.1), noise
        self.asked: list[float] = []

    def errors(self, batch: Batch) -> torch.Tensor:
        hidden = self.dropout(torch.tanh(self.norm(self.first(batch.x["rna"].dense()))))
        out = self.last(hidden).squeeze(1)
        if self.training:
            out = out + self.noise * torch.randn_like(out)
        return (out - batch.library["rna"]).square()

    def forward(self, batch: Batch, epoch: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.asked.append(epoch)
        loss = self.errors(batch).mean()
        return loss, self.logs(loss)

    def score(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.logs(self.errors(batch).mean())

    def logs(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": loss.detach(), "elbo.loss": loss.detach(), "beta": torch.tensor(0.5)}

    def blame(self, batch: Batch, epoch: float) -> list[tuple[str, torch.Tensor]]:
        bad = ~self.errors(batch).isfinite()
        return [("recon.rna", bad)] if bad.any() else []


class Scripted(Regression):
    """Its validation loss is what the script says, one value an epoch."""

    def __init__(self, script: list[float]) -> None:
        super().__init__()
        self.script = iter(script)

    def score(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.logs(torch.tensor(next(self.script)))


class Constant(Regression):
    """Its loss is the mean of a known value of the cells; the first parameter has a gradient of 1."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values, self.level = values, nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch, epoch: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value = self.values[batch.index].mean()
        return value + self.level - self.level.detach(), self.logs(value)

    def score(self, batch: Batch) -> dict[str, torch.Tensor]:
        return self.logs(self.values[batch.index].mean())


def settings(epochs: int = 3, **others: object) -> OptimSettings:
    return OptimSettings(**{"epochs": epochs, "batch_size": BATCH, "lr": 0.02, "device": "cpu", **others})


def make(cls: type[Regression] = Regression, *args: object) -> Regression:
    torch.manual_seed(1)
    return cls(*args)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- what fit does -------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_tells_how_it_went() -> None:
    model = make()
    history = Trainer(model, settings(30)).fit(Cells(), Cells(shuffle=False))
    assert history.epochs == 30
    assert history.reason == "finished all 30 epochs"
    assert history.monitor == "val.elbo.loss"
    losses = [record["train"]["loss"] for record in history.history]
    assert losses[-1] < 0.5 * losses[0]
    first = history.history[0]
    assert (first["epoch"], first["step"], first["lr"]) == (1, 3, 0.02)
    assert first["val"].keys() == {"loss", "elbo.loss", "beta"}
    assert first["seconds"] > 0
    assert first["cells_per_s"] == pytest.approx(N_CELLS / first["seconds"])
    assert history.best_value == min(record["val"]["elbo.loss"] for record in history.history)
    assert not model.training
    errors = torch.cat([model.errors(batch) for batch in Cells(shuffle=False)])
    assert history.history[-1]["val"]["loss"] == pytest.approx(errors.mean().item(), rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    trained = []
    for seed in (0, 0, 1):
        model = make()
        Trainer(model, settings(seed=seed)).fit(Cells())
        trained.append(weights(model))
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


def test_the_callers_random_numbers_go_on_as_if_nothing_was_drawn_and_do_not_matter() -> None:
    results = []
    for seed in (3, 4):
        model = make()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        Trainer(model, settings()).fit(Cells(), Cells())
        assert torch.equal(before, torch.get_rng_state())
        results.append(weights(model))
    assert same(*results)


def test_validation_does_not_change_training_and_draws_the_same_noise_every_epoch() -> None:
    class Noisy(Regression):
        def score(self, batch: Batch) -> dict[str, torch.Tensor]:
            return self.logs(torch.rand(()))

    noisy, plain = make(Noisy), make()
    history = Trainer(noisy, settings()).fit(Cells(), Cells())
    Trainer(plain, settings()).fit(Cells())
    assert len({record["val"]["loss"] for record in history.history}) == 1
    assert same(weights(noisy), weights(plain))


def test_means_are_over_cells_not_over_batches() -> None:
    values = torch.arange(20.0) ** 2
    history = Trainer(make(Constant, values), settings(1)).fit(Cells(), Cells(n_cells=9))
    assert history.history[0]["train"]["loss"] == pytest.approx(values.mean().item(), rel=1e-6)
    assert history.history[0]["val"]["loss"] == pytest.approx(values[:9].mean().item(), rel=1e-6)


def test_partners_along_edges_do_not_count_as_cells() -> None:
    class Partners(Cells):
        def __iter__(self):
            for batch in super().__iter__():
                batch.seed[0] = False
                yield batch

    history = Trainer(make(), settings(1)).fit(Partners())
    record = history.history[0]
    assert record["cells_per_s"] * record["seconds"] == pytest.approx(N_CELLS - 3)


def test_the_objective_is_told_the_epoch_with_its_fraction() -> None:
    model = make()
    Trainer(model, settings(2)).fit(Cells())
    assert model.asked == pytest.approx([0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])
    plain = make()
    Trainer(plain, settings(2)).fit(iter_only())
    assert plain.asked == [0, 0, 0, 1, 1, 1]
    assert not plain.training


def iter_only():
    class Bare:
        def __iter__(self):
            return iter(Cells())

    return Bare()


def test_gradients_are_clipped_to_the_norm_or_left_alone() -> None:
    norms: dict[float, list[float]] = {}
    for clip in (0.5, 0.0):
        trainer = Trainer(make(), settings(1, grad_clip=clip))
        seen = norms.setdefault(clip, [])

        def see(optimizer: torch.optim.Optimizer, *_: object, seen: list[float] = seen) -> None:
            grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
            seen.append(torch.cat([g.flatten() for g in grads]).norm().item())

        trainer.state.optimizer.register_step_pre_hook(see)
        trainer.fit(Cells())
    assert max(norms[0.5]) <= 0.5 + 1e-5
    assert min(norms[0.0]) > 0.5


def test_training_cells_come_in_the_order_of_the_epoch_and_validation_cells_always_in_the_first() -> None:
    class Recording(Cells):
        def set_epoch(self, epoch: int) -> None:
            super().set_epoch(epoch)
            asked.setdefault(self, []).append(epoch)

    asked: dict[Cells, list[int]] = {}
    train, val = Recording(), Recording()
    Trainer(make(), settings(3)).fit(train, val)
    assert (asked[train], asked[val]) == ([0, 1, 2], [0, 0, 0])


def test_without_cells_the_message_says_which() -> None:
    with pytest.raises(InputError, match="no training cells"):
        Trainer(make(), settings()).fit([])
    with pytest.raises(InputError, match="no validation cells"):
        Trainer(make(), settings()).fit(Cells(), [])


def test_a_second_fit_of_a_finished_run_changes_nothing() -> None:
    model = make()
    trainer = Trainer(model, settings(1))
    trainer.fit(Cells())
    before = weights(model)
    assert trainer.fit(Cells()).reason == "finished the only epoch"
    assert same(before, weights(model))


# --- stopping, monitoring, learning rate ------------------------------------------------------------------------


def stopping(**keys: object) -> dict[str, object]:
    return {"early_stopping": {"enabled": True, "patience": 2, **keys}}


def run_script(script: list[float], **optim: object):
    loader = Cells(n_cells=4)  # one validation batch an epoch
    return Trainer(make(Scripted, script), settings(len(script), **optim)).fit(Cells(), loader)


def test_early_stopping_says_why() -> None:
    history = run_script([5.0, 3.0, 3.5, 3.25, 1.0], **stopping())
    assert history.reason == "stopped at epoch 4: val.elbo.loss did not fall for 2 epochs (best 3 at epoch 2)"
    assert (history.best_epoch, history.best_value, len(history.history)) == (2, 3.0, 4)


def test_a_change_below_min_delta_is_no_improvement_but_the_best_is_kept_exactly() -> None:
    history = run_script([5.0, 4.96875, 4.9375, 1.0], **stopping(min_delta=0.125))
    assert history.reason == (
        "stopped at epoch 3: val.elbo.loss did not fall by 0.125 for 2 epochs (best 4.9375 at epoch 3)"
    )
    assert run_script([5.0, 4.9375, 4.875, 4.8125, 4.75], **stopping(min_delta=0.125)).epochs == 5


def test_mode_max_and_a_patience_of_one() -> None:
    history = run_script([1.0, 2.0, 1.5, 9.0], **stopping(mode="max", patience=1, monitor="val.loss"))
    assert history.reason == "stopped at epoch 3: val.loss did not rise for 1 epoch (best 2 at epoch 2)"


def test_a_validation_loss_that_is_nan_never_counts_as_better() -> None:
    history = run_script([math.nan, 4.0, math.nan, math.nan], **stopping())
    assert (history.best_epoch, history.best_value, history.epochs) == (2, 4.0, 4)
    assert run_script([math.nan] * 3, **stopping()).reason.endswith("(never finite)")


def test_a_monitor_that_nothing_logs_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    model = make()
    before = weights(model)
    trainer = Trainer(model, settings(**stopping(monitor="elbo.los")), run_dir=tmp_path / "run")
    with pytest.raises(InputError, match=r"did you mean 'elbo\.loss'\? \(valid: beta, elbo\.loss, loss\)"):
        trainer.fit(Cells(), Cells())
    assert same(before, weights(model))
    assert not (tmp_path / "run").exists()


def test_a_val_monitor_needs_validation_cells() -> None:
    trainer = Trainer(make(), settings(**stopping(monitor="val.elbo.loss")))
    with pytest.raises(InputError, match="there are no validation cells"):
        trainer.fit(Cells())


def test_plateau_lowers_the_rate_when_the_validation_stalls() -> None:
    scheduler = {"name": "plateau", "patience": 1, "gamma": 0.5, "min_lr": 0.008}
    history = run_script([5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0], scheduler=scheduler)
    assert [r["lr"] for r in history.history] == pytest.approx([0.02, 0.02, 0.02, 0.01, 0.01, 0.008, 0.008])


def test_cosine_reaches_the_optimizer() -> None:
    history = Trainer(make(), settings(4, scheduler={"name": "cosine"})).fit(Cells())
    assert [r["lr"] for r in history.history] == pytest.approx(
        [0.02 * 0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]
    )


# --- precision --------------------------------------------------------------------------------------------------


def test_bf16_computes_in_bf16_and_keeps_float32_weights() -> None:
    class Watching(Regression):
        def errors(self, batch: Batch) -> torch.Tensor:
            self.seen = self.first(batch.x["rna"].dense()).dtype
            return super().errors(batch)

    model = make(Watching)
    history = Trainer(model, settings(10, amp={"enabled": True})).fit(Cells(), Cells())
    assert model.seen is torch.bfloat16
    assert all(p.dtype is torch.float32 for p in model.parameters())
    assert history.history[-1]["val"]["loss"] < history.history[0]["val"]["loss"]


def with_fp16(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """As if the device computed in fp16: CPU autocast can, slowly."""
    monkeypatch.setattr(trainer_module, "choose_precision", lambda amp, device: torch.float16)
    return {"amp": {"enabled": True, "dtype": "fp16"}}


def test_fp16_scales_the_loss_and_skips_steps_that_overflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Huge(Regression):
        def forward(self, batch: Batch, epoch: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            loss, logs = super().forward(batch, epoch)
            return loss * 100, logs  # fits into fp16, but not times the first scale of 65536

    amp = with_fp16(monkeypatch)
    model = make(Huge)
    trainer = Trainer(model, settings(10, **amp), run_dir=tmp_path)
    history = trainer.fit(Cells(), Cells())
    assert trainer.state.scaler.get_scale() < 65536
    assert history.history[-1]["val"]["loss"] < history.history[0]["val"]["loss"]
    again = Trainer(make(Huge), settings(11, **amp))
    again.fit(Cells(), Cells(), resume=tmp_path / "last.pt")
    assert again.state.scaler.get_scale() == trainer.state.scaler.get_scale()


def test_fp16_clips_the_gradient_itself_not_the_scaled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def see(optimizer: torch.optim.Optimizer, *_: object) -> None:
        grads = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.cat(grads).norm().item())

    for half in (False, True):
        amp = with_fp16(monkeypatch) if half else {}
        trainer = Trainer(make(), settings(1, grad_clip=1000.0, **amp))
        if half:
            trainer.state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        trainer.state.optimizer.register_step_pre_hook(see)
        trainer.fit(Cells())
    assert norms[3] == pytest.approx(norms[0], rel=0.01)
    assert norms[0] < 1000


def test_fp16_without_any_finite_gradient_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(make(BadGradient), settings(20, **with_fp16(monkeypatch)))
    with pytest.raises(TrainingDiverged, match="no gradient is finite in fp16"):
        trainer.fit(Cells())


# --- divergence -------------------------------------------------------------------------------------------------


class BadGradient(Regression):
    """A finite loss with an infinite gradient for one parameter."""

    def forward(self, batch: Batch, epoch: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, logs = super().forward(batch, epoch)
        return loss + (self.last.bias * 0).abs().sqrt().sum(), logs


def poisoned(cells: list[int]) -> Cells:
    x = features()
    x[cells] = float("inf")
    return Cells(x)


class FromSecondEpoch:
    """Cells that are fine in the first epoch and poisoned afterwards."""

    def __init__(self, cells: list[int]) -> None:
        self.good, self.bad, self.epoch = Cells(), poisoned(cells), 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.good.set_epoch(epoch)
        self.bad.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.good)

    def __iter__(self):
        return iter(self.bad if self.epoch else self.good)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("half", [False, True])
def test_a_loss_that_is_not_finite_stops_the_run_and_nothing_is_lost(
    eager: bool, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_cell = int(
        np.random.default_rng([7, 1]).permutation(N_CELLS)[BATCH]
    )  # in the second batch of epoch 2
    amp = with_fp16(monkeypatch) if half else {}
    reference = make()
    trainer = Trainer(reference, settings(2, **amp))
    seen = []
    trainer.state.optimizer.register_step_pre_hook(lambda *_: seen.append(weights(reference)))
    trainer.fit(Cells())

    model = make()
    trainer = Trainer(model, settings(2, **amp), run_dir=tmp_path, cell_names=NAMES)
    trainer.eager = eager
    with pytest.raises(TrainingDiverged) as caught:
        trainer.fit(FromSecondEpoch([bad_cell]))
    message = str(caught.value)
    assert "epoch 2, step 5" in message
    assert f"recon.rna (modality rna), cells CELL{bad_cell} of 8 in the batch" in message
    assert str(tmp_path / "checkpoint.last.pt") in message
    assert "lower optim.lr (0.02)" in message
    assert same(weights(model), seen[4])  # as they were before the fifth step
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1


def test_a_divergence_seen_late_is_dated_in_its_own_window() -> None:
    index = int(np.random.default_rng([7, 0]).permutation(N_CELLS)[-1])
    trainer = Trainer(make(), settings(2), logging=LoggingSettings(log_interval=2))
    trainer.eager = False
    with pytest.raises(TrainingDiverged, match=rf"epoch 1, step 3: .*rows {index} of 4 .*none yet"):
        trainer.fit(poisoned([index]))


def test_the_failed_step_is_repeated_with_its_own_noise() -> None:
    class Unlucky(Regression):
        """Diverges in the cells that draw a large number, in the fifth step."""

        def errors(self, batch: Batch) -> torch.Tensor:
            self.drawn = batch.index[torch.rand(len(batch)) > 0.5]
            return super().errors(batch)

        def forward(self, batch: Batch, epoch: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            loss, logs = super().forward(batch, epoch)
            self.unlucky = self.drawn
            return (loss / 0 if epoch > 1.1 else loss), logs

        def blame(self, batch: Batch, epoch: float) -> list[tuple[str, torch.Tensor]]:
            self.errors(batch)
            return [("align", torch.isin(batch.index, self.drawn))]

    model = make(Unlucky)
    with pytest.raises(TrainingDiverged) as caught:
        Trainer(model, settings()).fit(Cells())
    named = ", ".join(map(str, model.unlucky.tolist()))
    assert f"epoch 2, step 5: not finite: align, rows {named} of 8 in the batch" in str(caught.value)


def test_at_most_five_cells_are_named() -> None:
    with pytest.raises(TrainingDiverged) as caught:
        Trainer(make(), settings(), cell_names=NAMES).fit(poisoned(list(range(N_CELLS))))
    assert str(caught.value).count("CELL") == 5
    assert "and 3 more of 8" in str(caught.value)


@pytest.mark.parametrize("eager", [True, False])
def test_a_gradient_that_is_not_finite_names_the_parameter(eager: bool) -> None:
    model = make(BadGradient)
    before = weights(model)
    trainer = Trainer(model, settings())
    trainer.eager = eager
    with pytest.raises(
        TrainingDiverged, match=r"the gradient of last\.bias, while the loss itself is finite"
    ):
        trainer.fit(Cells())
    assert same(before, weights(model))


def test_detect_anomaly_traces_the_operation_and_leaves_the_global_switch_off() -> None:
    trainer = Trainer(make(BadGradient), settings(detect_anomaly=True))
    with (
        pytest.warns(UserWarning, match="Error detected in"),
        pytest.raises(RuntimeError, match="returned nan values"),
    ):
        trainer.fit(Cells())
    assert not torch.is_anomaly_enabled()


def test_waiting_for_the_logs_gives_the_same_weights_as_reading_every_loss() -> None:
    trained = []
    for eager in (True, False):
        model = make()
        trainer = Trainer(model, settings(grad_clip=0.5))
        trainer.eager = eager
        trainer.fit(Cells())
        trained.append(weights(model))
    assert same(*trained)


# --- files ------------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_under_both_names(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    Trainer(make(), settings(2), run_dir=run, metadata={"features": ["A", "B"]}).fit(Cells(), Cells())
    assert {path.name for path in run.iterdir()} == {
        *("checkpoint.last.pt", "last.pt", "checkpoint.best.pt", "best.pt", "train_log.csv"),
        "train_history.json",
    }
    assert (run / "last.pt").samefile(run / "checkpoint.last.pt")
    assert (run / "best.pt").samefile(run / "checkpoint.best.pt")
    assert load_checkpoint(run / "last.pt")["metadata"] == {"features": ["A", "B"]}
    history = json.loads((run / "train_history.json").read_text())
    assert history["reason"] == "finished all 2 epochs"
    assert [record["epoch"] for record in history["history"]] == [1, 2]


def test_the_best_checkpoint_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    model = make(Scripted, [5.0, 3.0, 4.0])
    Trainer(model, settings(3), run_dir=tmp_path).fit(Cells(), Cells(n_cells=4))
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 2
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 3


def test_without_validation_the_best_is_by_the_training_value_if_anything_is_monitored(
    tmp_path: Path,
) -> None:
    history = Trainer(make(), settings(3, **stopping()), run_dir=tmp_path / "a").fit(Cells())
    assert history.monitor == "elbo.loss"
    assert load_checkpoint(tmp_path / "a" / "best.pt")["epoch"] == history.best_epoch
    history = Trainer(make(), settings(3), run_dir=tmp_path / "b").fit(Cells())
    assert history.monitor is history.best_value is None
    assert not (tmp_path / "b" / "best.pt").exists()


def test_the_log_has_a_row_every_interval_and_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    values = torch.arange(20.0)
    log = LoggingSettings(log_interval=2)
    Trainer(make(Constant, values), settings(2), run_dir=tmp_path, logging=log).fit(
        Cells(shuffle=False), Cells(n_cells=4)
    )
    rows = rows_of(tmp_path / "train_log.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "2"), ("1", "3"), ("2", "5"), ("2", "6")]
    assert [float(row["loss"]) for row in rows] == pytest.approx([7.5, 17.5, 7.5, 17.5])
    assert [row["val.loss"] for row in rows] == ["", "1.5", "", "1.5"]
    assert {row["lr"] for row in rows} == {"0.02"}


def test_one_row_where_an_interval_ends_with_the_epoch(tmp_path: Path) -> None:
    log = LoggingSettings(log_interval=3)
    Trainer(make(), settings(2), run_dir=tmp_path, logging=log).fit(Cells())
    assert [row["step"] for row in rows_of(tmp_path / "train_log.csv")] == ["3", "6"]


def test_a_log_goes_on_after_the_steps_that_are_done_and_takes_new_names(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvLog(path, 0)
    for step in (1, 2, 3):
        log.write({"epoch": 1, "step": step, "lr": 0.5, "a": step / 3})
    log.close()
    log = CsvLog(path, 2)
    log.write({"epoch": 2, "step": 3, "lr": 0.5, "b,c": 7.0})
    log.close()
    assert [(row["step"], row["a"], row["b,c"]) for row in rows_of(path)] == [
        ("1", str(1 / 3), ""),
        ("2", str(2 / 3), ""),
        ("3", "", "7.0"),
    ]
    assert len(rows_of(path)) == 3
    CsvLog(path, 0).close()
    assert len(rows_of(path)) == 3, "a log without rows leaves the file alone"


def test_a_foreign_log_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="no column 'step'"):
        CsvLog(tmp_path / "log.csv", 5)


def test_a_meter_averages_a_name_over_the_batches_that_have_it() -> None:
    meter = Meter(torch.device("cpu"))
    meter.add({"a": torch.tensor(1.0), "b": torch.tensor(4.0, dtype=torch.float64)}, 3)
    meter.add({"a": torch.tensor(5.0)}, 1)
    assert meter.read() == {"a": 2.0, "b": 4.0}
    meter.add({"a": torch.tensor(2.0)}, 4)
    assert meter.read() == {"a": 2.0}
    assert meter.epoch() == {"a": 2.0, "b": 4.0}
    assert (len(meter), meter.cells) == (0, 8)


def test_values_that_are_not_finite_become_null_in_the_history(tmp_path: Path) -> None:
    Trainer(make(Scripted, [math.nan]), settings(1), run_dir=tmp_path).fit(Cells(), Cells(n_cells=4))
    history = json.loads((tmp_path / "train_history.json").read_text())
    assert history["history"][0]["val"]["loss"] is None


def test_metadata_that_no_checkpoint_can_hold_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"metadata\.features\[\] is a numpy\.float64"):
        Trainer(make(), settings(), metadata={"features": [np.float64(1)]})


def test_tensorboard_events_hold_the_rows(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = LoggingSettings(tensorboard=True, log_interval=2)
    Trainer(make(), settings(2), run_dir=tmp_path, logging=log).fit(Cells(), Cells())
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 3, 5, 6]
    assert [event.step for event in events.Scalars("val.elbo.loss")] == [3, 6]


def test_tensorboard_shows_repeated_steps_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for done, value in ((0, 1.0), (3, 2.0)):
        log = TensorBoardLog(tmp_path, done)
        for step in range(done + 1, 6):
            log.write({"epoch": 1, "step": step, "loss": value})
        log.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        *((1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0))
    ]


def test_tensorboard_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LoggingSettings(tensorboard=True)
    with pytest.raises(InputError, match="needs a folder"):
        Trainer(make(), settings(), logging=log)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"remadom\[tensorboard\]"):
        Trainer(make(), settings(), run_dir=tmp_path, logging=log).fit(Cells())


# --- progress and interruption ----------------------------------------------------------------------------------


def test_one_line_an_epoch_and_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "remadom"):
        Trainer(make(), settings(2)).fit(Cells(), Cells())
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/2: loss ")
    assert "val.loss" in lines[0]
    assert "cells/s" in lines[0]
    assert lines[2] == "finished all 2 epochs"


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with caplog.at_level(logging.INFO, "remadom"):
        Trainer(make(), settings(2)).fit(Cells())
    assert "2/2" in capsys.readouterr().err
    assert [record.getMessage() for record in caplog.records] == ["finished all 2 epochs"]


def test_an_interruption_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    class Interrupted(Cells):
        def __iter__(self):
            for position, batch in enumerate(super().__iter__()):
                if (self.epoch, position) == (2, 1):
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        Trainer(make(), settings(4), run_dir=tmp_path).fit(Interrupted(), Cells())
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 2
    resumed, whole = make(), make()
    Trainer(resumed, settings(4), run_dir=tmp_path).fit(Cells(), Cells(), resume=tmp_path / "last.pt")
    Trainer(whole, settings(4)).fit(Cells(), Cells())
    assert same(weights(resumed), weights(whole))


# --- resuming (bit-identity after a kill: tests/integration/test_resume.py) ---------------------------------------


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    Trainer(make(), settings(3), run_dir=tmp_path / "run").fit(Cells(), Cells())
    return tmp_path / "run" / "last.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "was trained with optim.seed 0, this run has 1"),
        ({"batch_size": 9}, "was trained with optim.batch_size 8, this run has 9"),
        ({"epochs": 2}, "has trained 3 epochs, optim.epochs is 2"),
    ],
)
def test_a_run_that_would_not_be_the_same_is_refused(
    change: dict[str, int], message: str, finished: Path, tmp_path: Path
) -> None:
    model = make()
    before = weights(model)
    trainer = Trainer(model, settings(**{"epochs": 5, **change}), run_dir=tmp_path / "other")
    with pytest.raises(InputError, match=message):
        trainer.fit(Cells(), Cells(), resume=finished)
    assert same(before, weights(model))
    assert not (tmp_path / "other").exists()


def test_a_run_can_go_on_with_more_epochs_in_another_folder(tmp_path: Path) -> None:
    # a falling loss is no improvement here, so the rate is reduced every other epoch
    plateau = {"scheduler": {"name": "plateau", "patience": 1}, "early_stopping": {"mode": "max"}}
    whole, longer = make(), make()
    whole_history = Trainer(whole, settings(12, **plateau)).fit(Cells(), Cells())
    Trainer(make(), settings(7, **plateau), run_dir=tmp_path / "a").fit(Cells(), Cells())
    trainer = Trainer(longer, settings(12, **plateau), run_dir=tmp_path / "b")
    history = trainer.fit(Cells(), Cells(), resume=tmp_path / "a" / "last.pt")
    assert same(weights(longer), weights(whole))
    assert len({record["lr"] for record in history.history}) > 1
    for one, other in zip(history.history, whole_history.history, strict=True):
        assert {k: one[k] for k in ("epoch", "step", "lr", "train", "val")}.items() <= other.items()
    assert [row["step"] for row in rows_of(tmp_path / "b" / "train_log.csv")] == [
        "24",
        "27",
        "30",
        "33",
        "36",
    ]


def test_a_checkpoint_whose_history_is_of_dicts_is_resumed(finished: Path, tmp_path: Path) -> None:
    parts = load_checkpoint(finished)
    assert all(isinstance(line, str) for line in parts["history"]), (
        "made once, as each epoch writes all of them"
    )
    old = tmp_path / "old.pt"
    save_checkpoint(old, **parts | {"history": [json.loads(line) for line in parts["history"]]})
    one, other = (
        Trainer(make(), settings(4), run_dir=tmp_path / name).fit(Cells(), Cells(), resume=checkpoint)
        for name, checkpoint in (("new", finished), ("old", old))
    )
    assert [entry["epoch"] for entry in other.history] == [1, 2, 3, 4]
    assert other.history[:3] == one.history[:3]
    for name in ("new", "old"):
        written = json.loads((tmp_path / name / "train_history.json").read_text())["history"]
        assert written[:3] == one.history[:3]
        assert len(written) == 4


def test_another_model_is_refused(finished: Path) -> None:
    model = make(Constant, torch.zeros(N_CELLS))
    with pytest.raises(InputError, match=r"another model than this configuration: Missing key.*level"):
        Trainer(model, settings(5)).fit(Cells(), resume=finished)


def test_a_checkpoint_that_is_not_of_training_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", model=make().state_dict())
    with pytest.raises(InputError, match=r"cannot be resumed from: it lacks .*optimizer"):
        Trainer(make(), settings()).fit(Cells(), resume=tmp_path / "a.pt")


def test_other_settings_are_those_of_the_new_run(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = Trainer(make(), settings(4, lr=0.001, weight_decay=0.5))
    with caplog.at_level(logging.INFO, "remadom"):
        history = trainer.fit(Cells(), Cells(), resume=finished)
    assert [record["lr"] for record in history.history] == [0.02, 0.02, 0.02, 0.001]
    assert trainer.state.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert caplog.records[0].getMessage() == (
        f"resuming {finished} after 3 epochs (9 steps); "
        "changed: epochs 3 -> 4, lr 0.02 -> 0.001, weight_decay 0.0001 -> 0.5"
    )


def test_a_finished_run_is_not_trained_further(finished: Path) -> None:
    model = make()
    history = Trainer(model, settings(3)).fit(Cells(), Cells(), resume=finished)
    assert history.reason == "finished all 3 epochs"
    assert same(weights(model), load_checkpoint(finished)["model"])


def test_another_monitored_value_starts_anew(finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = Trainer(make(), settings(4, **stopping())).fit(Cells(), resume=finished)
    assert (history.monitor, history.best_epoch) == ("elbo.loss", 4)
    assert "monitored val.elbo.loss (min), now it is elbo.loss (min)" in caplog.text


def test_the_best_checkpoint_comes_along(tmp_path: Path) -> None:
    script = [5.0, 3.0, 4.0]
    Trainer(make(Scripted, script), settings(3), run_dir=tmp_path / "a").fit(Cells(), Cells(n_cells=4))
    trainer = Trainer(make(Scripted, [9.0]), settings(4), run_dir=tmp_path / "b")
    trainer.fit(Cells(), Cells(n_cells=4), resume=tmp_path / "a" / "last.pt")
    assert load_checkpoint(tmp_path / "b" / "best.pt")["epoch"] == 2

    # a run that was killed after last.pt was written with a new best epoch, before best.pt was
    (tmp_path / "c").mkdir()
    last = shutil.copy(tmp_path / "a" / "best.pt", tmp_path / "c" / "last.pt")
    trainer = Trainer(make(Scripted, [9.0]), settings(3), run_dir=tmp_path / "c")
    trainer.fit(Cells(), Cells(n_cells=4), resume=last)
    assert load_checkpoint(tmp_path / "c" / "best.pt")["epoch"] == 2

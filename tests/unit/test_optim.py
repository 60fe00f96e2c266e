"""Device, precision, AdamW, learning rates, the monitored value and the seeds."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from remadom.errors import InputError
from remadom.train.optim import LearningRate, adamw, choose_device, choose_precision, device_at_hand
from remadom.train.settings import Amp, OptimSettings
from remadom.train.stopping import Watch
from remadom.utils.seed import derive, private_noise, seed_everything

CPU = torch.device("cpu")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.frozen = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)


def settings(scheduler: dict[str, object] | None = None, **others: object) -> OptimSettings:
    return OptimSettings(**{"lr": 0.1, "epochs": 10, "scheduler": scheduler or {}, **others})


def rates(optim: OptimSettings, epochs: int, values: list[float] | None = None) -> list[float]:
    rate = LearningRate(adamw(Small().parameters(), optim, CPU), optim)
    found = []
    for epoch in range(epochs):
        rate.begin(epoch)
        found.append(rate.optimizer.param_groups[-1]["lr"])
        rate.end(values[epoch] if values else None, epoch + 1)
    return found


def torch_rates(scheduler_of, epochs: int, values: list[float] | None = None) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, found = scheduler_of(optimizer), []
    for epoch in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([values[epoch]] if values else []))
    return found


# --- device, precision, optimizer -------------------------------------------------------------------------------


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    missing = "mps" if torch.cuda.is_available() else "cuda"
    if not torch.cuda.is_available() or not torch.backends.mps.is_available():
        with pytest.raises(InputError, match=f"optim.device is '{missing}', but this machine has .*cpu"):
            choose_device(missing)
        assert device_at_hand(missing) == choose_device("auto")
    assert device_at_hand("cpu") == CPU


def test_precision_falls_back_aloud(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_precision(Amp(), CPU) is None
    assert choose_precision(Amp(enabled=True, dtype="bf16"), CPU) is torch.bfloat16
    assert not caplog.records
    assert choose_precision(Amp(enabled=True, dtype="fp16"), CPU) is torch.bfloat16
    assert choose_precision(Amp(enabled=True, dtype="fp16"), torch.device("mps")) is None
    assert [record.getMessage() for record in caplog.records] == [
        "optim.amp.dtype is fp16, which cpu does not compute in; training in bf16 instead",
        "optim.amp.dtype is fp16, which mps does not compute in; training in float32 instead",
    ]
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_without_bf16_units_computes_in_float32(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    cuda = torch.device("cuda")
    assert choose_precision(Amp(enabled=True), cuda) is (torch.bfloat16 if native else None)
    assert choose_precision(Amp(enabled=True, dtype="fp16"), cuda) is torch.float16


def test_only_trainable_matrices_decay() -> None:
    model = Small()
    optimizer = adamw(model.parameters(), settings(weight_decay=0.5), CPU)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {
        id(model.first.weight): 0.5,
        id(model.first.bias): 0.0,
        id(model.norm.weight): 0.0,
        id(model.norm.bias): 0.0,
    }
    assert optimizer.defaults["fused"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    torch.testing.assert_close(model.first.weight.detach(), before["first.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(model.norm.weight, before["norm.weight"])


def moved(gradients: list[float]) -> float:
    """How far a bias goes by these gradients, in learning rates."""
    bias = nn.Parameter(torch.zeros(1))
    optim = settings(lr=1e-2)
    optimizer = adamw([bias], optim, CPU)
    for gradient in gradients:
        bias.grad = torch.tensor([gradient])
        optimizer.step()
    return abs(bias.item()) / optim.lr


def test_a_feature_that_comes_once_in_a_long_while_moves_its_weight_little() -> None:
    once = moved([1.0] + [0.0] * 300 + [1.0] + [0.0] * 100) - moved([1.0] + [0.0] * 300)
    assert once == pytest.approx(5.8, rel=0.01)  # with a memory of 1,000 steps: 12


def test_a_feature_that_says_next_to_nothing_learns_slower() -> None:
    assert moved([1.0] * 100) == pytest.approx(100, rel=0.01)
    assert moved([1e-4] * 100) == pytest.approx(100 / 11, rel=0.05)  # g / (g + EPS)


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to train"):
        adamw(Small().frozen.parameters(), settings(), CPU)


# --- learning rate: torch's schedulers as oracles --------------------------------------------------------------


def test_none_is_constant() -> None:
    assert rates(settings(), 4) == [0.1] * 4


def test_cosine_is_torchs_within_t_max_and_stays_low_after_it() -> None:
    ours = rates(settings({"name": "cosine", "T_max": 6, "min_lr": 0.01}), 12)
    theirs = torch_rates(lambda o: CosineAnnealingLR(o, 6, eta_min=0.01), 7)
    assert ours[:7] == pytest.approx(theirs)
    assert ours[7:] == pytest.approx([0.01] * 5)


def test_cosine_without_t_max_ends_with_the_run() -> None:
    assert rates(settings({"name": "cosine"}), 10) == pytest.approx(
        torch_rates(lambda o: CosineAnnealingLR(o, 10), 10)
    )


def test_cosine_of_a_longer_run_follows_the_longer_curve() -> None:
    short, long = settings({"name": "cosine"}, epochs=4), settings({"name": "cosine"}, epochs=8)
    rate = LearningRate(adamw(Small().parameters(), short, CPU), short)
    again = LearningRate(adamw(Small().parameters(), long, CPU), long)
    again.load_state_dict(rate.state_dict())
    assert again.at(4) == pytest.approx(0.05)
    assert again.at(4) == rates(long, 5)[-1]


def test_step_is_torchs() -> None:
    ours = rates(settings({"name": "step", "step_size": 3, "gamma": 0.2}), 10)
    assert ours == pytest.approx(torch_rates(lambda o: StepLR(o, 3, 0.2), 10))


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [0, 2])
def test_plateau_is_torchs(mode: str, patience: int) -> None:
    values = np.random.default_rng(patience).normal(size=60).tolist()
    scheduler = {"name": "plateau", "patience": patience, "gamma": 0.5, "min_lr": 0.001}
    ours = rates(settings(scheduler, early_stopping={"mode": mode}), 60, values)
    theirs = torch_rates(
        lambda o: ReduceLROnPlateau(o, mode, 0.5, patience, threshold=0.0, min_lr=0.001, eps=0), 60, values
    )
    assert ours == pytest.approx(theirs)
    assert len(set(ours)) > 3


def test_plateau_goes_on_from_its_state() -> None:
    values = np.random.default_rng(1).normal(size=20).tolist()
    optim = settings({"name": "plateau", "patience": 1})
    whole = rates(optim, 20, values)
    first = LearningRate(adamw(Small().parameters(), optim, CPU), optim)
    for epoch in range(9):
        first.end(values[epoch], epoch + 1)
    second = LearningRate(adamw(Small().parameters(), optim, CPU), optim)
    second.load_state_dict(first.state_dict())
    found = []
    for epoch in range(9, 20):
        found.append(second.at(epoch))
        second.end(values[epoch], epoch + 1)
    assert found == whole[9:]


def test_a_lowest_rate_above_the_rate_is_refused() -> None:
    optim = settings({"name": "cosine", "min_lr": 0.5})
    with pytest.raises(InputError, match=r"min_lr \(0\.5\) is above optim\.lr \(0\.1\)"):
        LearningRate(adamw(Small().parameters(), optim, CPU), optim)


# --- the monitored value ----------------------------------------------------------------------------------------


def test_small_steps_add_up_to_an_improvement() -> None:
    watch = Watch("min", 1.0)
    waited = []
    for epoch, value in enumerate([10.0, 9.6, 9.2, 8.8, 8.8]):
        watch.update(value, epoch)
        waited.append(watch.waited)
    assert waited == [0, 1, 2, 0, 1]
    assert (watch.best, watch.best_epoch) == (8.8, 3)


# --- seeds ------------------------------------------------------------------------------------------------------


def test_a_seed_is_the_same_in_every_version() -> None:
    assert derive(0, "step", 0) == 4433896974232160741
    assert derive(42, "epoch", 7) == 2992696540282651402


def test_seeds_differ_between_purposes_steps_and_runs() -> None:
    seeds = {derive(s, p, i) for s in range(10) for p in ("step", "epoch", "1") for i in range(100)}
    assert len(seeds) == 3000
    assert all(0 <= seed < 2**63 for seed in seeds)
    np.random.default_rng(max(seeds))
    torch.Generator().manual_seed(max(seeds))


def test_seed_everything_seeds_all_three() -> None:
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    draws = []
    for seed in (5, 5, 2**70 + 6):
        seed_everything(seed)
        draws.append((random.random(), np.random.rand(), torch.rand(()).item()))  # noqa: NPY002
    assert draws[0] == draws[1]
    assert all(first != other for first, other in zip(draws[0], draws[2], strict=True))
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])


def draw_and_fail() -> None:
    with private_noise(CPU):
        torch.rand(5)
        raise KeyError


def test_private_noise_leaves_no_trace_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        draw_and_fail()
    assert torch.equal(before, torch.get_rng_state())

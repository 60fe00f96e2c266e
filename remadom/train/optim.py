"""Device, precision, AdamW and the learning rate of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from remadom.errors import InputError
from remadom.train.settings import Amp, OptimSettings
from remadom.train.stopping import Watch

logger = logging.getLogger(__name__)

BETAS = (0.9, 0.95)
"""Adam's memory of a gradient and of its square: 10 and 20 steps.

With the usual 1,000 steps for the square, the gradient of a gene that is seldom counted is divided by a mean of mostly
zeros when it comes, and its weights move by many learning rates.
"""

EPS = 1e-3
"""Gradient, in nats a cell, up to which weights learn in proportion to it.

Adam moves every weight by the learning rate otherwise, however little its feature says.
"""


def choose_device(name: str) -> torch.device:
    """Device of ``optim.device``; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    InputError
        The device was asked for by name and is not there.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, present in there.items() if present)
    if not there[name]:
        present = ", ".join(device for device in there if there[device])
        raise InputError(f"optim.device is '{name}', but this machine has {present}; use one, or 'auto'")
    return torch.device(name)


def device_at_hand(name: str) -> torch.device:
    """Device of ``optim.device`` where this machine has it, else that of ``auto``: for a model trained elsewhere."""
    try:
        return choose_device(name)
    except InputError:
        return choose_device("auto")


def choose_replay(optim: OptimSettings, device: torch.device, half: torch.dtype | None) -> bool:
    """Whether steps are to be replayed as CUDA graphs: where that is asked for, on CUDA, in full precision."""
    return optim.cuda_graphs and device.type == "cuda" and half is None and not optim.detect_anomaly


def choose_precision(amp: Amp, device: torch.device) -> torch.dtype | None:
    """Half precision to compute in, ``None`` for float32; what the device cannot do is replaced, aloud.

    A CPU computes in bf16 (fp16 has no fast kernels there), MPS in float32, and a GPU without bf16 units in
    float32 rather than in fp16, whose range is smaller than what was asked for.
    """
    if not amp.enabled:
        return None
    dtype = torch.float16 if amp.dtype == "fp16" else torch.bfloat16
    usable: torch.dtype | None
    if device.type == "cuda":
        native = dtype is torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
        usable = dtype if native else None
    else:
        usable = torch.bfloat16 if device.type == "cpu" else None
    if usable is not dtype:
        instead = "float32" if usable is None else "bf16"
        logger.warning(
            "optim.amp.dtype is %s, which %s does not compute in; training in %s instead",
            amp.dtype,
            device.type,
            instead,
        )
    return usable


def adamw(
    parameters: Iterable[nn.Parameter], optim: OptimSettings, device: torch.device
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and gains (fewer than two dimensions) do not decay.

    Decoupled weight decay: Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise InputError("nothing to train: the model has no trainable parameter")
    matrices = [parameter for parameter in trainable if parameter.ndim >= 2]
    others = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=BETAS, eps=EPS, fused=fused)


class LearningRate:
    """The learning rate of each epoch.

    ``none``, ``cosine`` and ``step`` are functions of the number of finished epochs and of the settings, with
    no state of their own. A run that is resumed with more epochs therefore goes on along the curve of its new
    settings: where ``T_max`` is null, the cosine then reaches its end at the new ``epochs``. After ``T_max``
    epochs the cosine stays at ``min_lr``. ``plateau`` reduces the rate when the monitored value has not
    improved for more than ``patience`` epochs; its state is :meth:`state_dict`.

    Cosine: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, without restarts.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, optim: OptimSettings) -> None:
        self.optimizer, self.optim, self.settings = optimizer, optim, optim.scheduler
        if self.settings.name in ("cosine", "plateau") and self.settings.min_lr > optim.lr:
            raise InputError(
                f"optim.scheduler.min_lr ({self.settings.min_lr:g}) is above optim.lr ({optim.lr:g}); lower it"
            )
        self.watch = Watch(optim.early_stopping.mode, optim.early_stopping.min_delta)
        self.reductions = 0

    def at(self, epoch: int) -> float:
        """Rate after ``epoch`` finished epochs."""
        lr, settings = self.optim.lr, self.settings
        if settings.name == "cosine":
            progress = min(1.0, epoch / (settings.T_max or self.optim.epochs))
            return settings.min_lr + (lr - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        if settings.name == "step":
            return lr * settings.gamma ** (epoch // settings.step_size)
        if settings.name == "plateau":
            return max(settings.min_lr, lr * settings.gamma**self.reductions)
        return lr

    def begin(self, epoch: int) -> None:
        """Set the rate with which the next epoch is trained, after ``epoch`` finished ones."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.at(epoch)

    def end(self, value: float | None, epoch: int) -> None:
        """Take the monitored value of a finished epoch."""
        if self.settings.name == "plateau":
            assert value is not None
            self.watch.update(value, epoch)
            if self.watch.waited > self.settings.patience:
                self.reductions, self.watch.waited = self.reductions + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Reductions so far and the counters of ``plateau``."""
        return {"reductions": self.reductions, "watch": self.watch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint."""
        self.reductions = state["reductions"]
        self.watch.load_state_dict(state["watch"])

"""The ``optim`` and ``logging`` sections of the configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from remadom.registry import Section


class Scheduler(Section):
    """Learning-rate schedule, advanced once an epoch."""

    name: Literal["none", "cosine", "step", "plateau"] = "none"
    """Which schedule."""

    step_size: PositiveInt = 10
    """``step``: epochs between reductions."""

    gamma: Annotated[float, Gt(0.0), Lt(1.0)] = 0.5
    """``step`` and ``plateau``: factor of a reduction."""

    T_max: PositiveInt | None = None
    """``cosine``: epochs until the lowest rate; null is ``optim.epochs``."""

    patience: NonNegativeInt = 5
    """``plateau``: epochs without improvement before a reduction."""

    min_lr: NonNegativeFloat = 0.0
    """Lowest learning rate of ``cosine`` and ``plateau``."""


class Amp(Section):
    """Automatic mixed precision."""

    enabled: bool = False
    """Compute matrix products in half precision."""

    dtype: Literal["fp16", "bf16"] = "bf16"
    """Which half precision; fp16 scales the loss."""


class EarlyStopping(Section):
    """Stop when the monitored value no longer improves."""

    enabled: bool = False
    """Whether to stop early."""

    monitor: str = "elbo.loss"
    """Logged value to watch; its ``val.`` form is used where there are validation cells."""

    mode: Literal["min", "max"] = "min"
    """Whether lower or higher is better."""

    patience: PositiveInt = 10
    """Epochs without improvement before stopping."""

    min_delta: NonNegativeFloat = 0.0
    """A change smaller than this is no improvement."""


class OptimSettings(Section):
    """How the model is trained."""

    epochs: PositiveInt = 100
    """Passes over the training cells."""

    batch_size: PositiveInt = 256
    """Cells in a batch."""

    lr: PositiveFloat = 4e-3
    """Learning rate of AdamW."""

    weight_decay: NonNegativeFloat = 1e-4
    """Decoupled weight decay; biases and normalization gains are exempt."""

    grad_clip: NonNegativeFloat = 10.0
    """Largest norm of the gradient; 0 does not clip."""

    terms_every: PositiveInt = 2
    """Steps from one that computes what stands beside the ELBO (alignment, graph, bridge) to the next; there it weighs
    that many times as much."""

    detect_anomaly: bool = False
    """Trace the operation that makes a gradient NaN (slow)."""

    seed: NonNegativeInt = 0
    """Seed of everything random: split, initialization, order of the cells, noise."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes a GPU where there is one."""

    cuda_graphs: bool = True
    """Record the model's passes on a CUDA GPU and replay them; false starts every operation anew."""

    scheduler: Scheduler = Scheduler()
    """Learning-rate schedule."""

    amp: Amp = Amp()
    """Mixed precision."""

    early_stopping: EarlyStopping = EarlyStopping()
    """Early stopping."""


class LoggingSettings(Section):
    """What a run leaves and where."""

    run_dir: str = "runs/remadom"
    """Folder of the run's outputs."""

    log_interval: PositiveInt = 50
    """Steps between rows of ``train_log.csv``."""

    tensorboard: bool = False
    """Also write TensorBoard events."""
